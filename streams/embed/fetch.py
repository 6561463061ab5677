"""From an image reference to its bytes; the only module that opens a URL or a path.

References are written by strangers, so each is checked before anything is opened: scheme, every address a name resolves
to, the real path of a file. Not for judging what the bytes are (`images.py`). The host of a reference is no dependency
of ours: after a few tries within a bounded time the event is `Invalid`, never retried for ever. But what this machine
lacks (open files, memory) is no fault of the event: `Retryable`. Queries and userinfo carry signatures and passwords,
so messages show scheme, host and path only.
"""

import asyncio
import errno
import os
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import httpcore
import httpx
import obstore
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import GCSStore, S3Store

from streams.errors import Invalid, Retryable

_SCHEMES: Final = frozenset({"https", "http", "file", "s3", "gs"})
_WEB: Final = frozenset({"https", "http"})
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOST: Final = re.compile(rb"[a-z0-9._:-]{1,253}")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")
_MAX_URI: Final = 8192
_HEADERS: Final = ((b"User-Agent", b"design-dedup"), (b"Accept", b"image/*"), (b"Accept-Encoding", b"identity"))
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})
_TEMPORARY: Final = frozenset({408, 425, 429})
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG})
_LACKING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_FIRST_PAUSE_S: Final = 0.1
_MAX_ADDRESSES: Final = 4
_NAMES_AT_ONCE: Final = 64
_READ_BYTES: Final = 8192
_MAX_PIECES: Final = 65_536

_IPV6_PUBLIC: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
# Our own table: what `is_global` means changed between patch releases of Python, and it lets multicast pass.
_REFUSED: Final = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/3", "168.63.129.16/32",  # the last: Azure's metadata host
            "2001::/23", "2001:db8::/32", "3fff::/20",
        ),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may cost; `timeout_s` bounds all of it: names, tries, redirects and body."""

    max_bytes: int = 20_000_000
    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    max_redirects: int = 3
    retries: int = 2


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be opened. `s3` and `gs` act with the service's own credentials, so they have to be asked for."""

    schemes: frozenset[str] = frozenset({"https", "http", "file"})
    file_roots: tuple[Path, ...] = ()
    """Directories that `file:` may read below; with none, every file is refused."""
    allow_private_hosts: frozenset[str] = frozenset()
    """`host:port` in lower case (`[::1]:80` for IPv6) of hosts that may have an address which is not public."""
    limits: FetchLimits = field(default_factory=FetchLimits)

    def __post_init__(self) -> None:
        if unknown := self.schemes - _SCHEMES:
            raise ValueError(f"unknown schemes: {', '.join(sorted(unknown))}")


class _Temporary(Invalid):
    """Worth another try within the time of the same fetch."""


class Fetcher:
    """Bytes of references, under one policy. Belongs to one event loop; `close` it there."""

    def __init__(self, policy: FetchPolicy, ssl_context: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._limits = policy.limits
        self._roots = tuple(Path(os.path.realpath(root)) for root in policy.file_roots)
        self._stores = lru_cache(maxsize=32)(self._open_store)
        # httpcore, the engine of httpx, because it does nothing unasked: no proxies from the environment, no redirects,
        # no cookies, no decompression; and it takes the connection from our backend.
        self._backend = _CheckedBackend(policy.allow_private_hosts)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            max_connections=None,  # the caller bounds how many fetches run
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=self._backend,
        )

    async def fetch(self, uri: str) -> bytes:
        """The bytes behind `uri`, or `Invalid` with the reason; `Retryable` when this machine lacks files or memory."""
        scheme = self._scheme_of(uri)
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                if scheme == "file":
                    return await asyncio.to_thread(_read_file, uri, self._roots, self._limits.max_bytes)
                if scheme in {"s3", "gs"}:
                    return await self._get_object(scheme, uri)
                return await self._get_with_retries(_parsed(uri, _WEB))
        except TimeoutError:
            raise Invalid("fetch_timeout", f"{scheme} reference: not read after {self._limits.timeout_s:g} s") from None

    async def close(self) -> None:
        """Close idle connections. No fetch may be under way."""
        await self._pool.aclose()
        self._backend.close()

    def _scheme_of(self, uri: str) -> str:
        match = _SCHEME.match(uri)
        if match is None or len(uri) > _MAX_URI or not uri.isprintable():
            raise Invalid("bad_uri", f"not an absolute URI of at most {_MAX_URI} printable characters")
        scheme = match[1].lower()
        if scheme not in self._policy.schemes:
            raise Invalid("scheme_not_allowed", f"its scheme is none of {', '.join(sorted(self._policy.schemes))}")
        return scheme

    async def _get_with_retries(self, url: httpx.URL) -> bytes:
        for attempt in range(self._limits.retries):
            try:
                return await self._get(url)
            except _Temporary:
                await asyncio.sleep(_FIRST_PAUSE_S * 4**attempt)
        return await self._get(url)

    async def _get(self, url: httpx.URL) -> bytes:
        extensions = {"timeout": {"connect": self._limits.connect_timeout_s}}
        for _ in range(self._limits.max_redirects + 1):
            target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
            headers = [(b"Host", url.netloc), *_HEADERS]
            try:
                async with self._pool.stream("GET", target, headers=headers, extensions=extensions) as answer:
                    if answer.status not in _REDIRECTS:
                        return await self._body(url, answer)
                    url = self._redirected(url, answer)
            # OSError: damaged TLS records come through httpcore and anyio as they are.
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
                _refuse_to_blame(error)
                raise _Temporary("unreachable", f"{_shown(url)}: {type(error).__name__}") from error
        raise Invalid("too_many_redirects", f"{_shown(url)}: more than {self._limits.max_redirects} redirects")

    def _redirected(self, url: httpx.URL, answer: httpcore.Response) -> httpx.URL:
        location = _header(answer, b"location")
        if not location:
            raise Invalid("http_status", f"{_shown(url)}: status {answer.status} without a location")
        return _parsed(location, self._policy.schemes & _WEB, base=url)

    async def _body(self, url: httpx.URL, answer: httpcore.Response) -> bytes:
        if answer.status != 200:
            message = f"{_shown(url)}: status {answer.status}"
            if answer.status in _TEMPORARY or answer.status >= 500:
                raise _Temporary("http_status", message)
            raise Invalid("not_found" if answer.status in _GONE else "http_status", message)
        encoding = _header(answer, b"content-encoding").lower()
        if encoding not in {"", "identity"}:  # we asked for none; and inflating is how small bodies become large
            raise Invalid("content_encoding", f"{_shown(url)}: sent compressed, though asked not to")
        length = _header(answer, b"content-length")
        self._check_size(int(length) if length.isdigit() else 0, _shown(url))
        return await self._collect(answer.aiter_stream(), _shown(url))

    async def _get_object(self, scheme: str, uri: str) -> bytes:
        bucket, _, key = uri.partition("://")[2].partition("/")
        if not _BUCKET.fullmatch(bucket) or not key:
            raise Invalid("bad_uri", f"not a reference of the form {scheme}://bucket/key")
        shown = f"{scheme}://{bucket}/{key.partition('?')[0]}"[:200]
        try:
            found = await obstore.get_async(self._stores(scheme, bucket), key)
            self._check_size(found.meta["size"], shown)
            return await self._collect(found.stream(min_chunk_size=1 << 20), shown)
        except FileNotFoundError:
            raise Invalid("not_found", f"{shown}: no such object") from None
        except InvalidPathError:
            raise Invalid("bad_uri", f"{shown}: not a valid key") from None
        except (BaseError, OSError, ValueError) as error:  # their texts hold whole URLs, so only the kind is told
            _refuse_to_blame(error)
            raise Invalid("unreachable", f"{shown}: {type(error).__name__}") from None

    def _open_store(self, scheme: str, bucket: str) -> S3Store | GCSStore:
        """Endpoint, region and credentials come from the environment, as every tool of these clouds has it.

        No `client_options`: any given here would switch off all those of the environment (AWS_ALLOW_HTTP).
        """
        store = S3Store if scheme == "s3" else GCSStore
        patience = timedelta(seconds=self._limits.timeout_s)
        return store(bucket, retry_config={"max_retries": self._limits.retries, "retry_timeout": patience})

    async def _collect(self, chunks: AsyncIterable[bytes], shown: str) -> bytes:
        """The whole body; what was announced as its length is not trusted."""
        body, pieces = bytearray(), 0
        async for chunk in chunks:
            body += chunk
            pieces += 1
            self._check_size(len(body), shown)
            if pieces > _MAX_PIECES:  # each costs time, whatever its size
                raise Invalid("too_large", f"{shown}: in more than {_MAX_PIECES} pieces")
        return bytes(body)

    def _check_size(self, size: int, shown: str) -> None:
        if size > self._limits.max_bytes:
            raise Invalid("too_large", f"{shown}: more than {self._limits.max_bytes} bytes")


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, checks every address, and connects to one of exactly those.

    It stands below TLS and HTTP: server name and Host header stay the name's, and a second answer of the name server
    (DNS rebinding) cannot matter. Pooled connections were checked when they were opened.
    """

    def __init__(self, exempt: frozenset[str]) -> None:
        self._exempt = exempt
        # Of their own, since a name server that never answers keeps its thread after everybody has given up: the event
        # loop's few threads resolve the broker's name too.
        self._resolvers = ThreadPoolExecutor(_NAMES_AT_ONCE, thread_name_prefix="resolve")
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port, timeout)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if shown not in self._exempt and not all(map(is_public, addresses)):
            raise Invalid("address_refused", f"{shown}: has an address that is not public")
        addresses = addresses[:_MAX_ADDRESSES]
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return _Stream(await self._network.connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return _Stream(await self._network.connect_tcp(addresses[-1], port, share, local_address, socket_options))

    async def _resolve(self, host: str, port: int, timeout: float | None) -> list[str]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().run_in_executor(self._resolvers, ask)
        except TimeoutError:
            raise httpcore.ConnectTimeout("name resolution") from None
        except UnicodeError:
            raise Invalid("bad_uri", "not a valid host name") from None
        except OSError as error:
            raise httpcore.ConnectError("name resolution") from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Let go of the threads; names that are still asked for are given up."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that is read in small portions: all that one holds is parsed at a stretch, and a portion of the
    usual 64 KB can hold 10,000 chunks, or headers of answers to come, for which everything else would have to wait."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self.write = stream.write  # type: ignore[method-assign]
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(min(max_bytes, _READ_BYTES), timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # httpcore closes it after its own time-out, and not when it is cancelled by ours
            await self._stream.aclose()
            raise


def is_public(address: str) -> bool:
    """Whether an address may be reached from a reference: globally routable, and so is an IPv4 one it embeds."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is None and ip not in _IPV6_PUBLIC:
            return False
        ip = embedded or ip
    return not any(ip in network for network in _REFUSED)


def _parsed(text: str, schemes: frozenset[str], base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        host = url.raw_host  # of a literal address httpx checks nothing when it parses
    except (httpx.InvalidURL, ValueError):  # the texts of these errors quote what may be a secret
        raise Invalid("bad_uri", "a web address that cannot be parsed") from None
    if url.scheme not in schemes:
        raise Invalid("scheme_not_allowed", f"a redirect may only lead to {', '.join(sorted(schemes))}")
    port = 80 if url.port is None else url.port
    if not _HOST.fullmatch(host) or url.userinfo or not 0 < port < 1 << 16:
        raise Invalid("bad_uri", "a web address needs a valid host and port, and no credentials")
    return url


def _shown(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.partition(b'?')[0].decode('ascii')}"[:200]


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in answer.headers if key.lower() == name), "")


def _refuse_to_blame(error: BaseException) -> None:
    """Retryable when it is this machine that lacks something, however wrapped."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _LACKING:
            raise Retryable(f"this machine lacks something: {os.strerror(seen.errno)}") from None
        seen = seen.__cause__ or seen.__context__


def _read_file(uri: str, roots: tuple[Path, ...], max_bytes: int) -> bytes:
    authority, slash, rest = uri[len("file:") :].removeprefix("//").partition("/")
    path = slash + os.fsdecode(unquote_to_bytes(rest))
    if authority not in {"", "localhost"} or not slash or "\0" in path or "?" in rest or "#" in rest:
        raise Invalid("bad_uri", "not of the form file:///path with ?, # and % percent-encoded")
    shown = f"file:///{rest}"[:200]
    try:
        real = Path(os.path.realpath(path))  # fails where a link goes away meanwhile
        root = next((root for root in roots if real.is_relative_to(root)), None)
        if root is None:
            raise Invalid("file_outside_roots", f"{shown}: its real path is below no allowed directory")
        descriptor = _open_beneath(root, real)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Invalid("not_found", f"{shown}: not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except RecursionError:
        raise Invalid("not_found", f"{shown}: too many links") from None
    except OSError as error:
        _refuse_to_blame(error)
        reason = "not_found" if error.errno in _NO_FILE else "unreachable"
        raise Invalid(reason, f"{shown}: {error.strerror}") from None
    if len(data) > max_bytes:
        raise Invalid("too_large", f"{shown}: more than {max_bytes} bytes")
    return data


def _open_beneath(root: Path, path: Path) -> int:
    """A descriptor reached name by name without following any link: what was checked cannot be swapped for one.

    Non-blocking, or opening a named pipe would wait for its writer for ever.
    """
    here = os.open(root, os.O_RDONLY | os.O_NONBLOCK)
    for name in path.relative_to(root).parts:
        try:
            there = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
        here = there
    return here
