"""The HTTP server over a fake service."""

import asyncio
import dataclasses
import hmac
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from streams.errors import Fatal, Invalid, Retryable
from streams.events import Verdict
from streams.tls import Tls
from streams.web.server import Service, WebOptions, WebServer
from tests.certificates import Authority

VERDICT = Verdict(
    verdict_id="v", design_id="", verdict="duplicate", similarity=0.97, threshold=0.9, neighbours=(), category="shirt",
    tenant="default", generator="", encoder_version="e", policy_version="p", image_digests=("d",), position=42, shard=0,
    submitted_at_ms=0, advisory=False,
)  # fmt: skip


class FakeService:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.error: Exception | None = None
        self.asked: list[tuple[Sequence[bytes], str, str]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.busy = asyncio.Event()

    def not_ready(self) -> list[str]:
        return self.reasons

    async def check(self, files: Sequence[bytes], category: str, tenant: str) -> Verdict:
        self.asked.append((files, category, tenant))
        if len(self.asked) == 2:
            self.busy.set()
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        return VERDICT

    async def verdict(self, design_id: str) -> bytes:
        if self.error is not None:
            raise self.error
        return msgspec.json.encode(VERDICT) if design_id == "a/b é" else b""


Client = TestClient[web.Request, web.Application]
OPTIONS = WebOptions(max_image_bytes=1000, max_request_bytes=3000, timeout_s=0.5, checks_at_once=2, tenant="shop")


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[Client]:
    checked: Service = service
    async with TestClient(TestServer(WebServer(checked, OPTIONS).application())) as client:
        yield client


def form(*files: bytes, name: str = "image") -> aiohttp.FormData:
    data = aiohttp.FormData()
    for number, file in enumerate(files):
        data.add_field(name, file, filename=f"{number}.jpg", content_type="image/jpeg")
    return data


async def test_a_live_loop_answers(client: Client) -> None:
    answer = await client.get("/livez")
    assert answer.status == 200
    assert answer.headers["Server"] == "design-dedup"


async def test_readiness_says_why_not(client: Client, service: FakeService) -> None:
    assert (await client.get("/readyz")).status == 200
    service.reasons = ["the encoder is down"]
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert await answer.json() == {"ready": False, "reasons": ["the encoder is down"]}


async def test_metrics_are_prometheus_text(client: Client) -> None:
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "dedup_ready" in await answer.text()


async def test_a_raw_body_is_one_picture(client: Client, service: FakeService) -> None:
    answer = await client.post("/v1/check?category=shirt", data=b"picture")
    assert answer.status == 200
    assert (await answer.json())["position"] == 42
    assert service.asked == [([b"picture"], "shirt", "shop")]


async def test_a_form_holds_up_to_eight_pictures(client: Client, service: FakeService) -> None:
    answer = await client.post("/v1/check?tenant=other", data=form(b"one", b"two"))
    assert answer.status == 200
    assert service.asked == [([b"one", b"two"], "", "other")]
    too_many = await client.post("/v1/check", data=form(*[b"x"] * 9))
    assert too_many.status == 400


@pytest.mark.parametrize("data", [form(b"x", name="file"), aiohttp.FormData({"image": "x"}, default_to_multipart=True)])
async def test_a_form_with_other_parts(client: Client, service: FakeService, data: aiohttp.FormData) -> None:
    answer = await client.post("/v1/check", data=data)
    assert answer.status == (200 if service.asked else 400)


async def test_a_form_that_is_none(client: Client) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await client.post("/v1/check", data=b"nothing of it", headers=headers)
    assert answer.status == 400
    answer = await client.post("/v1/check", data=b"--x--\r\n", headers=headers)
    assert await answer.json() == {"reason": "bad_request", "message": "no part named `image`"}


async def test_a_large_picture_is_refused(client: Client, service: FakeService) -> None:
    assert (await client.post("/v1/check", data=b"x" * 1001)).status == 413
    assert (await client.post("/v1/check", data=form(b"x" * 1001))).status == 413
    assert (await client.post("/v1/check", data=form(*[b"x" * 900] * 4))).status == 413
    assert (await client.post("/v1/check", data=b"x" * 100_000)).status == 413
    assert not service.asked


async def test_errors_have_a_status_each(client: Client, service: FakeService) -> None:
    service.error = Invalid("not_an_image", "not a picture")
    answer = await client.post("/v1/check", data=b"x")
    assert (answer.status, await answer.json()) == (400, {"reason": "not_an_image", "message": "not a picture"})
    service.error = Retryable("no owner")
    answer = await client.post("/v1/check", data=b"x")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    service.error = RuntimeError("secret")
    answer = await client.post("/v1/check", data=b"x")
    assert answer.status == 500
    assert "secret" not in await answer.text()


async def test_an_unknown_path_and_method_are_json(client: Client) -> None:
    assert (await (await client.get("/nothing")).json())["reason"] == "not_found"
    answer = await client.get("/v1/check")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_the_verdict_of_a_design(client: Client, service: FakeService) -> None:
    answer = await client.get("/v1/verdicts/a%2Fb%20%C3%A9")
    assert (await answer.json())["similarity"] == 0.97
    assert (await client.get("/v1/verdicts/unknown")).status == 404
    service.error = Retryable("this worker does not own shard 0 now")
    assert (await client.get("/v1/verdicts/unknown")).status == 503


async def test_a_slow_answer_ends(client: Client, service: FakeService) -> None:
    service.hold.clear()
    answer = await client.post("/v1/check", data=b"x")
    assert answer.status == 503
    assert "within 0.5 s" in await answer.text()


async def test_too_many_checks_at_once(client: Client, service: FakeService) -> None:
    service.hold.clear()
    waiting = [asyncio.create_task(client.post("/v1/check", data=b"x")) for _ in range(2)]
    await service.busy.wait()
    assert (await client.post("/v1/check", data=b"x")).status == 503
    service.hold.set()
    assert [(await answer).status for answer in waiting] == [200, 200]


async def test_a_slow_sender_is_let_go(client: Client) -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(2)
        yield b"x"

    answer = await client.post("/v1/check", data=drip())
    assert answer.status == 408


@pytest.mark.parametrize("host", ["evil.example:8088", "localhost.evil.example", "169.254.169.254"])
async def test_without_a_token_no_other_name_is_answered_to(client: Client, host: str) -> None:
    for path in ("/livez", "/v1/verdicts/x", "/metrics"):
        answer = await client.get(path, headers={"Host": host})
        assert answer.status == 403
        assert (await answer.json())["reason"] == "forbidden_host"
    for own in ("localhost:8088", "127.0.0.1", "[::1]:8088"):
        assert (await client.get("/livez", headers={"Host": own})).status == 200


async def test_connections_without_a_request_leave_room_for_others(service: FakeService) -> None:
    server = WebServer(service, WebOptions(port=0))
    port = int((await server.start()).rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(150)]
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/livez") as answer:
            assert answer.status == 200
        async with asyncio.timeout(5):
            assert await held[0][0].read() == b"", "the oldest had to go"
        assert not held[-1][0].at_eof()
    finally:
        for _, writer in held:
            writer.close()
        await server.stop()


async def test_it_listens_on_a_free_port_and_says_where(service: FakeService) -> None:
    server = WebServer(service, WebOptions(port=0))
    address = await server.start()
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{address}/livez") as answer:
            assert answer.status == 200
        port = int(address.rpartition(":")[2])
        with pytest.raises(Fatal, match="cannot listen"):
            await WebServer(service, WebOptions(port=port)).start()
    finally:
        await server.stop()


TOKEN = "a-long-random-word-4711"
NOBODY = [
    {}, {"Authorization": ""}, {"Authorization": TOKEN}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": "Bearer \u00e9"},
    {"Authorization": f"Bearer {TOKEN.upper()}"}, {"Authorization": f"Token {TOKEN}"}, {"Authorization": "Basic"},
    {"Authorization": "Basic ####"}, {"Authorization": "Basic eDp5"}, {"Cookie": f"token={TOKEN}"},
    {"Authorization": aiohttp.encode_basic_auth(TOKEN, "x")},
]  # fmt: skip
GUARDED = ["/metrics", "/v1/verdicts/a", "/v1/check", "/", "/nothing", "/livez/../metrics", "/livez/"]


@pytest.fixture
async def guarded(service: FakeService) -> AsyncIterator[Client]:
    """A server with a token."""
    server = WebServer(service, dataclasses.replace(OPTIONS, token=TOKEN))
    async with TestClient(TestServer(server.application())) as client:
        yield client


@pytest.mark.parametrize("path", GUARDED)
async def test_without_the_token_every_path_is_closed(guarded: Client, service: FakeService, path: str) -> None:
    for headers in NOBODY:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            answer = await guarded.request(method, path, headers=headers)
            assert answer.status == 401, (method, path, headers)
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="design-dedup", charset="UTF-8"'
            assert TOKEN not in await answer.text()
    answer = await guarded.get(path)
    assert (await answer.json())["reason"] == "unauthorized"
    assert (await guarded.get(path, params={"token": TOKEN, "access_token": TOKEN})).status == 401
    assert not service.asked


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", aiohttp.encode_basic_auth("anybody", TOKEN),
     aiohttp.encode_basic_auth("", TOKEN)],
)  # fmt: skip
async def test_a_program_and_a_browser_come_in(guarded: Client, authorization: str) -> None:
    headers = {"Authorization": authorization}
    assert (await guarded.get("/metrics", headers=headers)).status == 200
    assert (await guarded.get("/v1/verdicts/a%2Fb%20%C3%A9", headers=headers)).status == 200
    assert (await guarded.post("/v1/check", data=b"picture", headers=headers)).status == 200
    assert (await guarded.get("/nothing", headers=headers)).status == 404


async def test_a_large_body_of_a_stranger_is_not_read(guarded: Client, service: FakeService) -> None:
    assert (await guarded.post("/v1/check", data=b"x" * 900_000)).status == 401
    assert not service.asked


async def test_probes_need_no_token_and_learn_no_reasons(guarded: Client, service: FakeService) -> None:
    assert (await guarded.get("/livez")).status == 200
    assert (await guarded.get("/readyz")).status == 200
    service.reasons = ["failed: kafka at 10.0.0.7 is away"]
    answer = await guarded.get("/readyz")
    assert (answer.status, await answer.json()) == (503, {"ready": False, "reasons": []})
    answer = await guarded.get("/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    assert (await answer.json())["reasons"] == service.reasons


async def test_the_token_is_compared_in_constant_time(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest

    def compare(given: bytes, token: bytes) -> bool:
        compared.append((given, token))
        return real(given, token)

    monkeypatch.setattr("hmac.compare_digest", compare)
    await guarded.get("/metrics", headers={"Authorization": "Bearer guess"})
    assert compared == [(b"guess", TOKEN.encode())]


def test_the_options_do_not_show_the_token() -> None:
    assert TOKEN not in repr(WebOptions(token=TOKEN))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "worker", "10.1.2.3", "::ffff:127.0.0.1"])  # noqa: S104 - on purpose
async def test_beyond_loopback_it_starts_only_with_a_token(service: FakeService, host: str) -> None:
    with pytest.raises(Fatal, match=r"set web_token \(or web_token_file\)"):
        await WebServer(service, WebOptions(host=host, port=0)).start()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8"])
async def test_on_loopback_it_needs_none(service: FakeService, host: str) -> None:
    server = WebServer(service, WebOptions(host=host, port=0))
    await server.start()
    await server.stop()


async def test_with_a_certificate_it_speaks_tls_only(service: FakeService, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("worker", "127.0.0.1")
    tls = Tls("web", cert_file=pair.cert, key_file=pair.key).server_context()
    server = WebServer(service, WebOptions(host="0.0.0.0", port=0, token=TOKEN, tls=tls))  # noqa: S104 - on purpose
    address = await server.start()
    try:
        assert address.startswith("https://")
        url = f"https://127.0.0.1:{address.rpartition(':')[2]}/metrics"
        trusting = Tls("worker", authority.cert).client_context()
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            async with session.get(url, ssl=trusting) as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url)
            with pytest.raises(aiohttp.ClientError):
                await session.get(url.replace("https", "http"))
    finally:
        await server.stop()
