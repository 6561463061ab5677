"""The worker's HTTP server: is it alive, is it ready, its metrics, and the two questions only a shard's owner can
answer. It knows a `Service` and neither Kafka nor Milvus; nothing that comes in here is recorded.

With a token every path asks for it but /livez and /readyz, which tell next to nothing: probes hold no secrets. Without
one the server listens on loopback only.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog
from aiohttp import BodyPartReader, MultipartReader, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams import metrics
from streams.errors import Fatal, Invalid, Retryable
from streams.events import MAX_IMAGES, Verdict, encode_event

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_RETRY_AFTER_S: Final = 1
_TEXT_CHARS: Final = 200
_ENVELOPE_BYTES: Final = 64 * 1024
_OPEN: Final = frozenset({"/livez", "/readyz"})
# A browser asks its user for a name (any) and a password (the token); a program sends the token as a bearer's.
_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="design-dedup", charset="UTF-8"'}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service(Protocol):
    """What the server asks. The worker is one."""

    def not_ready(self) -> list[str]:
        """Why it is not ready; empty when it is."""

    async def check(self, files: Sequence[bytes], category: str, tenant: str) -> Verdict:
        """The verdict that pictures would get now. Invalid: they cannot be used; Retryable: not now."""

    async def verdict(self, design_id: str) -> bytes:
        """The JSON of a design's current verdict; empty when there is none. Retryable: not the owner."""


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Where the server listens and what one request may cost."""

    host: str = "127.0.0.1"
    port: int = 8088
    max_image_bytes: int = 20_000_000
    max_request_bytes: int = 40_000_000
    timeout_s: float = 30.0
    checks_at_once: int = 4
    tenant: str = "default"
    """Whose catalogue is asked when a request names no tenant."""
    token: str = field(default="", repr=False)
    """What a request must know; empty: anybody may ask, and the host must be loopback."""
    tls: ssl.SSLContext | None = None


_MOST_CONNECTIONS: Final = 100
_HANDSHAKE_S: Final = 5.0


class _Refused(Exception):
    """A request that ends with this status and reason."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers


class WebServer:
    """One listening socket; `start` and `stop` once each."""

    def __init__(self, service: Service, options: WebOptions) -> None:
        self._service = service
        self._options = options
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._checks = asyncio.Semaphore(options.checks_at_once)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(
            middlewares=[_answer_errors, self._ask_token], client_max_size=self._options.max_request_bytes
        )
        app.on_response_prepare.append(_hide_banner)
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.post("/v1/check", self._check),
                web.get("/v1/verdicts/{design_id}", self._verdict),
            ]
        )
        return app

    async def start(self) -> str:
        """Listen; returns the address, `http://HOST:PORT`. Fatal when the port is taken or everybody could ask."""
        options = self._options
        if not _is_loopback(options.host):
            if not options.token:
                raise Fatal(
                    f"web_host {options.host} lets other machines in, and there is no token to ask them for: set"
                    " web_token (or web_token_file) to a long random word, or web_host to 127.0.0.1"
                )
            if options.tls is None:
                _log.warning("the token is sent in the clear; set web_cert_file and web_key_file", host=options.host)
        self._runner = web.AppRunner(self.application(), access_log=None, keepalive_timeout=30, shutdown_timeout=2)
        await self._runner.setup()
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._accept, options.host, options.port, ssl=options.tls,
                ssl_handshake_timeout=None if options.tls is None else _HANDSHAKE_S,
            )  # fmt: skip
        except OSError as error:
            await self.stop()
            raise Fatal(
                f"cannot listen on {options.host}:{options.port} (web_host, web_port): {os.strerror(error.errno or 0)};"
                " does another worker run there?"
            ) from error
        host, port = self._listening.sockets[0].getsockname()[:2]
        scheme = "http" if options.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def stop(self) -> None:
        """Let requests under way finish, for two seconds, and close the socket."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        """A new connection; above a number the oldest one has to go. Connecting needs no token, and each takes an open
        file, of which the rest of the worker needs some."""
        assert self._runner is not None  # noqa: S101 - it is closed after the socket
        server = self._runner.server
        assert server is not None  # noqa: S101 - as it was set up
        if len(server.connections) >= _MOST_CONNECTIONS:
            server.connections[0].force_close()
        handler: asyncio.Protocol = server()
        return handler

    @web.middleware
    async def _ask_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._options.token and not _is_loopback(request.url.host or ""):
            # A page in a browser of this machine may ask by a name of its own that leads here (DNS rebinding).
            raise _Refused(403, "forbidden_host", "without a web_token this answers to loopback addresses only")
        resource = request.match_info.route.resource
        if (resource is None or resource.canonical not in _OPEN) and not self._knows_token(request):
            raise _Refused(401, "unauthorized", "this needs the worker's web_token", _CHALLENGE)
        return await handler(request)

    def _knows_token(self, request: web.Request) -> bool:
        """Whether there is nothing to know, or it is known; takes as long for a near miss as for nonsense."""
        token = self._options.token.encode()
        given = _secret_of(request.headers.get("Authorization", ""))
        return not token or hmac.compare_digest(given, token)

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = self._service.not_ready()
        shown = reasons if self._knows_token(request) else []
        return web.json_response({"ready": not reasons, "reasons": shown}, status=503 if reasons else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        metrics.ready.set(not self._service.not_ready())
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _check(self, request: web.Request) -> web.Response:
        if self._checks.locked():
            raise Retryable("too many checks at once")
        async with self._checks:
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    files = await self._files(request)
            except TimeoutError:
                raise _Refused(408, "slow_request", "the request did not arrive in time") from None
            category = _text(request, "category", "")
            tenant = _text(request, "tenant", self._options.tenant)
            verdict = await self._in_time(self._service.check(files, category, tenant))
        return web.json_response(body=encode_event(verdict))

    async def _verdict(self, request: web.Request) -> web.Response:
        value = await self._in_time(self._service.verdict(request.match_info["design_id"]))
        if not value:
            raise _Refused(404, "unknown_design", "no verdict was said of this design, or it was withdrawn")
        return web.json_response(body=value)

    async def _in_time(self, answer: Awaitable[T]) -> T:
        """A shard that waits for a dependency holds its questions back."""
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await answer
        except TimeoutError:
            raise Retryable(f"no answer within {self._options.timeout_s:g} s") from None

    async def _files(self, request: web.Request) -> list[bytes]:
        if (request.content_length or 0) > self._options.max_request_bytes + _ENVELOPE_BYTES:
            raise _Refused(413, "too_large", f"the limit is {self._options.max_request_bytes} bytes")
        if request.content_type != "multipart/form-data":
            return [await self._limited(request.content.iter_chunked(64 * 1024))]
        files: list[bytes] = []
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if isinstance(part, MultipartReader) or part.name != "image":
                raise Invalid("bad_request", "every part must be a file named `image`")
            if len(files) == MAX_IMAGES:
                raise Invalid("bad_request", f"at most {MAX_IMAGES} pictures")
            files.append(await self._limited(_chunks(part)))
            if sum(map(len, files)) > self._options.max_request_bytes:
                raise _Refused(413, "too_large", f"the limit is {self._options.max_request_bytes} bytes")
        if not files:
            raise Invalid("bad_request", "no part named `image`")
        return files

    async def _limited(self, chunks: Any) -> bytes:
        limit, data = self._options.max_image_bytes, bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > limit:
                raise _Refused(413, "too_large", f"a picture may have {limit} bytes")
        return bytes(data)


async def _chunks(part: BodyPartReader) -> Any:
    while chunk := await part.read_chunk(64 * 1024):
        yield chunk


def _text(request: web.Request, name: str, default: str) -> str:
    value = request.query.get(name, default)
    if len(value) > _TEXT_CHARS:
        raise Invalid("bad_request", f"`{name}` is longer than {_TEXT_CHARS} characters")
    return value


def _secret_of(authorization: str) -> bytes:
    """What an Authorization header proves to know; nothing when it cannot be read."""
    scheme, _, given = authorization.partition(" ")
    given = given.strip()
    if scheme.lower() == "bearer":
        return given.encode(errors="replace")
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(given, validate=True).partition(b":")[2]
    return b""


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _hide_banner(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "design-dedup"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _problem(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode({"reason": reason, "message": message})
    return web.json_response(body=body, status=status, headers=headers)


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer that is not the one asked for is JSON with a reason and a message."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the worker must not die of a question
        return _answer_to(error, request.path)


def _answer_to(error: Exception, path: str) -> web.Response:
    match error:
        case _Refused():
            return _problem(error.status, error.reason, str(error), error.headers)
        case Invalid():
            return _problem(400, error.reason, str(error))
        case Retryable():
            return _problem(503, "unavailable", str(error), {"Retry-After": str(_RETRY_AFTER_S)})
        case web.HTTPException():
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return _problem(error.status, error.reason.lower().replace(" ", "_"), error.reason, allowed)
        case ValueError():  # aiohttp's multipart reader
            return _problem(400, "bad_request", f"the body cannot be read: {error}")
        case _:
            _log.error("a request failed", path=path, exc_info=error)
            return _problem(500, "error", "an unexpected error; the worker's log has it")
