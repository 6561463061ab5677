"""Bytes are read from where the policy allows, and no connection is made to anywhere else."""

import asyncio
import errno
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpcore
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from streams.embed import fetch
from streams.embed.fetch import Fetcher, FetchLimits, FetchPolicy, is_public
from streams.errors import Invalid, Retryable

LIMITS = FetchLimits(max_bytes=1000, timeout_s=5.0, connect_timeout_s=1.0, retries=0)
WEB = FetchPolicy(schemes=frozenset({"http", "https"}), limits=LIMITS)
SECRET = "hunter2"
PUBLIC = "93.184.215.14"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fetcher(policy: FetchPolicy, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Fetcher]:
    opened = Fetcher(policy, ssl_context)
    try:
        yield opened
    finally:
        await opened.close()


async def get(uri: str, policy: FetchPolicy = WEB) -> bytes:
    async with fetcher(policy) as opened:
        return await opened.fetch(uri)


async def refused(uri: str, policy: FetchPolicy = WEB) -> str:
    with pytest.raises(Invalid) as caught:
        await get(uri, policy)
    assert SECRET not in str(caught.value)
    assert str(caught.value).encode().isascii()
    return caught.value.reason


def allowing(*hosts: str, **limits: Any) -> FetchPolicy:
    return replace(WEB, allow_private_hosts=frozenset(hosts), limits=replace(LIMITS, **limits))


class Trap:
    """A listening socket of which each connection is a failed test."""

    def __init__(self, family: socket.AddressFamily, address: str) -> None:
        self.listener = socket.create_server((address, 0), family=family)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]

    def untouched(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def trap() -> Iterator[Trap]:
    opened = Trap(socket.AF_INET, "127.0.0.1")
    yield opened
    opened.listener.close()


@pytest.fixture
def local(httpserver: HTTPServer) -> FetchPolicy:
    return allowing(f"{httpserver.host}:{httpserver.port}")


@asynccontextmanager
async def raw_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers each request with whatever `handler` writes, HTTP or not."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def says(*parts: bytes, pause_s: float = 0.0) -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


class Names:
    """A name server whose answers are given one after the other, the last for ever; and a log of connections."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.connected: list[str] = []
        self.patience_s = 0.0
        self.real_port = 0

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replaces the resolver, and the network by one where every public address is this machine's `real_port`."""
        real = httpcore.AnyIOBackend.connect_tcp

        async def connect_tcp(backend: Any, host: str, port: int, *args: Any) -> httpcore.AsyncNetworkStream:
            self.connected.append(host)
            self.patience_s += args[0]
            if not self.real_port:
                raise httpcore.ConnectError("nobody there")
            return await real(backend, "127.0.0.1", self.real_port, *args)

        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)
        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)


# ---- plain HTTP


async def test_a_body_is_read_as_it_is(httpserver: HTTPServer, local: FetchPolicy) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return Response(b"\x00picture\xff", content_type="image/png")

    httpserver.expect_request("/a b/c.png", query_string="sig=x%2By").respond_with_handler(answer)
    assert await get(httpserver.url_for("/a%20b/c.png?sig=x%2By#fragment"), local) == b"\x00picture\xff"
    assert seen[0].headers["Accept-Encoding"] == "identity"
    assert seen[0].headers["Host"] == f"{httpserver.host}:{httpserver.port}"
    assert "Cookie" not in seen[0].headers


async def test_one_fetcher_serves_many_and_keeps_its_connections(httpserver: HTTPServer, local: FetchPolicy) -> None:
    httpserver.expect_request("/x").respond_with_data(b"x" * 1000)
    async with fetcher(local) as opened:
        bodies = await asyncio.gather(*(opened.fetch(httpserver.url_for("/x")) for _ in range(20)))
    assert bodies == [b"x" * 1000] * 20


@pytest.mark.parametrize("status", [404, 410, 204, 206, 300, 302, 304, 403, 429, 500])
async def test_other_answers_than_200(httpserver: HTTPServer, local: FetchPolicy, status: int) -> None:
    httpserver.expect_request("/x").respond_with_data(b"", status=status)
    reason = "not_found" if status in {404, 410} else "http_status"
    assert await refused(httpserver.url_for("/x?token=hunter2"), local) == reason


async def test_a_host_in_trouble_is_asked_a_few_times(httpserver: HTTPServer, local: FetchPolicy) -> None:
    policy = replace(local, limits=replace(LIMITS, retries=2))
    for status in (503, 429):
        httpserver.expect_ordered_request("/x").respond_with_data(b"", status=status)
    httpserver.expect_ordered_request("/x").respond_with_data(b"at last")
    assert await get(httpserver.url_for("/x"), policy) == b"at last"
    httpserver.clear()
    httpserver.expect_request("/gone").respond_with_data(b"", status=404)
    httpserver.expect_request("/down").respond_with_data(b"", status=500)
    assert await refused(httpserver.url_for("/gone"), policy) == "not_found"
    assert len(httpserver.log) == 1
    assert await refused(httpserver.url_for("/down"), policy) == "http_status"
    assert len(httpserver.log) == 4


async def test_proxies_of_the_environment_are_not_used(
    httpserver: HTTPServer, local: FetchPolicy, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
    httpserver.expect_request("/x").respond_with_data(b"direct")
    assert await get(httpserver.url_for("/x"), local) == b"direct"
    assert trap.untouched()


# ---- bodies and lengths that are not as they should be


async def test_the_limit_holds_whatever_the_length_says(httpserver: HTTPServer, local: FetchPolicy) -> None:
    httpserver.expect_request("/fits").respond_with_data(b"x" * 1000)
    httpserver.expect_request("/large").respond_with_data(b"x" * 1001)
    assert len(await get(httpserver.url_for("/fits"), local)) == 1000
    assert await refused(httpserver.url_for("/large"), local) == "too_large"

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
            await writer.drain()

    async with raw_server(endless) as port:
        assert await refused(f"http://127.0.0.1:{port}/", allowing(f"127.0.0.1:{port}")) == "too_large"
    no_length = says(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x" * 600, b"x" * 600)
    async with raw_server(no_length) as port:
        assert await refused(f"http://127.0.0.1:{port}/", allowing(f"127.0.0.1:{port}")) == "too_large"
    announced = says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", pause_s=1)
    async with raw_server(announced) as port:
        assert await refused(f"http://127.0.0.1:{port}/", allowing(f"127.0.0.1:{port}")) == "too_large"


async def test_a_body_shorter_than_announced_is_not_a_body() -> None:
    async with raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nshort")) as port:
        assert await refused(f"http://127.0.0.1:{port}/", allowing(f"127.0.0.1:{port}")) == "unreachable"


async def test_a_body_longer_than_announced_is_cut_there() -> None:
    async with raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort" + b"x" * 5000)) as port:
        assert await get(f"http://127.0.0.1:{port}/", allowing(f"127.0.0.1:{port}")) == b"short"


NOT_HTTP = {
    "nothing": b"",
    "text": b"garbage\r\n\r\n",
    "another protocol": b"SSH-2.0-x\r\n",
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "endless header": b"HTTP/1.1 200 OK\r\na: " + b"x" * 300_000,
}


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_does_not_speak_http_is_unreachable(answer: bytes) -> None:
    async with raw_server(says(answer)) as port:
        assert await refused(f"http://127.0.0.1:{port}/", allowing(f"127.0.0.1:{port}")) == "unreachable"


async def test_compressed_bodies_are_refused(httpserver: HTTPServer, local: FetchPolicy) -> None:
    httpserver.expect_request("/gz").respond_with_data(b"x", headers={"Content-Encoding": "gzip"})
    httpserver.expect_request("/id").respond_with_data(b"x", headers={"Content-Encoding": "Identity"})
    assert await refused(httpserver.url_for("/gz"), local) == "content_encoding"
    assert await get(httpserver.url_for("/id"), local) == b"x"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"])
async def test_the_time_limit_is_for_the_whole_fetch(head: bytes) -> None:
    started = time.monotonic()
    async with raw_server(says(head, *[b"x"] * 1000, pause_s=0.05)) as port:
        policy = allowing(f"127.0.0.1:{port}", timeout_s=0.4, retries=5)
        async with fetcher(policy) as opened:
            with pytest.raises(Invalid) as caught:
                await opened.fetch(f"http://127.0.0.1:{port}/?hunter2")
            assert caught.value.reason == "fetch_timeout"
            assert SECRET not in str(caught.value)
            assert opened._pool.connections == []  # nothing leaks
    assert time.monotonic() - started < 30  # the answer takes 50


async def test_a_closed_port_and_an_unknown_name_are_unreachable_in_bounded_time(trap: Trap) -> None:
    trap.listener.close()
    started = time.monotonic()
    assert (
        await refused(f"http://127.0.0.1:{trap.port}/", allowing(f"127.0.0.1:{trap.port}", retries=2)) == "unreachable"
    )
    assert await refused("http://no-such-host.invalid/") == "unreachable"
    assert time.monotonic() - started < 10


# ---- addresses


THIS_MACHINE = """
    127.0.0.1 127.0.0.1. 127.1 2130706433 0x7f.1 0x7f000001 0177.0.0.1 127。0。0。1 localhost LOCALHOST localhost.
    0.0.0.0 0 [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1]
"""
NOT_PUBLIC = """
    10.1.2.3 172.31.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 127.8.8.8 0.0.0.0 224.0.0.1 239.1.1.1
    240.0.0.1 255.255.255.255 198.18.0.1 192.0.0.192 192.0.2.1 168.63.129.16
    :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 fec0::1 100::1 2001::1 2001:db8::1 3fff::1
    ::ffff:10.0.0.1 ::10.0.0.1 ::ffff:0:127.0.0.1 2002:7f00:1:: 2002:a00:1::1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
    64:ff9b:1::1
"""
ARE_PUBLIC = """
    8.8.8.8 93.184.215.14 172.32.0.1 100.128.0.1 223.255.255.255 2606:4700::1111 2a00:1450::8
    64:ff9b::808:808 ::ffff:8.8.8.8 2002:808:808::1
"""


@pytest.mark.parametrize("host", THIS_MACHINE.split())
async def test_no_spelling_of_this_machine_is_connected_to(trap: Trap, host: str) -> None:
    assert await refused(f"http://{host}:{trap.port}/?token=hunter2") in {"address_refused", "bad_uri", "unreachable"}
    assert trap.untouched()


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_these_spellings_do_reach_this_machine_when_exempt(httpserver: HTTPServer, host: str) -> None:
    """The counterpart: without the check the connections above would have been made."""
    httpserver.expect_request("/x").respond_with_data(b"reached")
    policy = allowing(f"{host}:{httpserver.port}", "[::ffff:7f00:1]:" + str(httpserver.port))
    assert await get(f"http://{host}:{httpserver.port}/x", policy) == b"reached"


async def test_an_exemption_is_for_one_host_and_port(trap: Trap) -> None:
    policy = allowing("127.0.0.1:1", f"localhost:{trap.port}", "127.0.0.1")
    assert await refused(f"http://127.0.0.1:{trap.port}/", policy) == "address_refused"
    assert trap.untouched()


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ARE_PUBLIC.split())
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


async def test_one_private_address_among_public_ones_refuses_the_name(
    monkeypatch: pytest.MonkeyPatch, trap: Trap
) -> None:
    names = Names([PUBLIC, "8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "10.0.0.1"])
    names.install(monkeypatch)
    names.real_port = trap.port
    assert await refused("http://mixed.example/") == "address_refused"
    assert names.connected == []
    assert trap.untouched()


async def test_the_checked_address_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    names = Names([PUBLIC], ["127.0.0.1"])  # a rebinding name server: public when checked, private when asked again
    names.install(monkeypatch)
    names.real_port = httpserver.port
    httpserver.expect_request("/x", headers={"Host": "pictures.example"}).respond_with_data(b"x")
    assert await get("http://pictures.example/x") == b"x"
    assert (names.asked, names.connected) == (1, [PUBLIC])


async def test_a_rebinding_name_is_refused_on_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names([PUBLIC], ["127.0.0.1"])
    names.install(monkeypatch)
    assert (
        await refused("http://pictures.example/x", replace(WEB, limits=replace(LIMITS, retries=2))) == "address_refused"
    )
    assert (names.asked, names.connected) == (2, [PUBLIC])


async def test_the_next_address_is_tried_when_one_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names([PUBLIC, "8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1"])
    names.install(monkeypatch)
    assert await refused("http://pictures.example/x") == "unreachable"
    assert names.connected == [PUBLIC, "8.8.8.8", "8.8.4.4", "1.1.1.1"]
    assert names.patience_s <= LIMITS.connect_timeout_s


async def test_a_name_server_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The threads in which it is waited for go on waiting when the references have long been given up."""
    answered = threading.Event()

    def silent(*_: Any, **__: Any) -> list[Any]:
        answered.wait()
        return []

    (tmp_path / "picture").write_bytes(b"here")
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    policy = replace(
        WEB, schemes=frozenset({"http", "file"}), file_roots=(tmp_path,), limits=replace(LIMITS, connect_timeout_s=0.1)
    )
    try:
        async with fetcher(policy) as opened:
            uris = [f"http://silent{n}.example/x" for n in range(40)]
            ended = await asyncio.gather(*map(opened.fetch, uris), return_exceptions=True)
            assert {getattr(error, "reason", error) for error in ended} == {"unreachable"}
            assert await opened.fetch((tmp_path / "picture").as_uri()) == b"here"
    finally:
        answered.set()


@pytest.mark.parametrize("host", ["a..b", "a" * 100])
async def test_what_cannot_be_a_name_is_no_reference(host: str) -> None:
    assert await refused(f"http://{host}/") == "bad_uri"


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate for pictures.example in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=DNS:pictures.example"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


async def test_tls_is_checked_against_the_name_though_the_address_was_connected_to(
    monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    asked: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: asked.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), server_side) as port:
        names = Names([PUBLIC])
        names.install(monkeypatch)
        names.real_port = port
        async with fetcher(WEB, trusting) as opened:
            assert await opened.fetch("https://pictures.example/x") == b"ok"
            with pytest.raises(Invalid) as caught:
                await opened.fetch("https://other.example/x")
            assert caught.value.reason == "unreachable"
        assert await refused("https://pictures.example/x") == "unreachable"  # not trusted by default
    assert asked == ["pictures.example", "other.example", "pictures.example"]
    assert names.connected == [PUBLIC] * 3


# ---- redirects


async def test_redirects_are_followed_up_to_the_limit(httpserver: HTTPServer, local: FetchPolicy) -> None:
    for hop, status in enumerate((301, 302, 303, 307)):
        headers = {"Location": f"/{hop + 1}" if hop % 2 else httpserver.url_for(f"/{hop + 1}")}
        httpserver.expect_request(f"/{hop}").respond_with_data(b"body", status=status, headers=headers)
    httpserver.expect_request("/4").respond_with_data(b"the end")
    assert await get(httpserver.url_for("/1"), local) == b"the end"
    assert await refused(httpserver.url_for("/0"), local) == "too_many_redirects"
    httpserver.expect_request("/loop").respond_with_data(b"", status=308, headers={"Location": "/loop?token=hunter2"})
    assert await refused(httpserver.url_for("/loop"), local) == "too_many_redirects"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1:{trap}/", "address_refused"),
        ("//127.0.0.1:{trap}/", "address_refused"),
        ("http://2130706433:{trap}/", "address_refused"),
        ("http://[::ffff:127.0.0.1]:{trap}/", "address_refused"),
        ("https://localhost:{trap}/", "address_refused"),
        ("http://169.254.169.254/latest/hunter2", "address_refused"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("FILE:///etc/passwd", "scheme_not_allowed"),
        ("s3://bucket/key", "scheme_not_allowed"),
        ("gopher://x/", "scheme_not_allowed"),
        ("data:text/plain,hunter2", "scheme_not_allowed"),
        ("http://user:hunter2@example.com/", "bad_uri"),
        ("http://x:99999999/", "bad_uri"),
        ("http://x\\y/", "bad_uri"),
        ("http://[::1", "bad_uri"),
    ],
)
async def test_a_redirect_is_checked_like_a_reference(trap: Trap, location: str, reason: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location.format(trap=trap.port)}\r\n\r\n"
    async with raw_server(says(answer.encode())) as port:
        schemes = frozenset({"http", "https", "file", "s3"})
        policy = replace(allowing(f"127.0.0.1:{port}"), schemes=schemes, file_roots=(Path("/"),))
        assert await refused(f"http://127.0.0.1:{port}/x", policy) == reason
    assert trap.untouched()


async def test_a_policy_without_http_is_not_left_by_a_redirect(
    monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://pictures.example/\r\n\r\n"
    async with raw_server(says(answer), server_side) as port:
        names = Names([PUBLIC])
        names.install(monkeypatch)
        names.real_port = port
        policy = replace(WEB, schemes=frozenset({"https"}))
        async with fetcher(policy, ssl.create_default_context(cafile=str(certificate))) as opened:
            with pytest.raises(Invalid) as caught:
                await opened.fetch("https://pictures.example/x")
    assert caught.value.reason == "scheme_not_allowed"
    assert names.connected == [PUBLIC]


# ---- references that are not opened at all


BAD_URIS = [
    *("", "no scheme", "/etc/passwd", "//host/x", "http:", "http://", "http:///x", "http:x", "http://h\n/"),
    *("http://h/\x00", "http://h:0/", "http://h:65536/", "http://h:x/", "http://user@h/", "http://:@h/"),
    *("http://user:hunter2@h/?hunter2", "http://user:hunter2/x@h/", "http://127.0.0.1\\@h/", "http://h\\.example/"),
    *("http://[::1/", "http://[fe80::1%25eth0]/", "http://" + "a" * 300 + "/", "http://h/" + "x" * 9000),
    *(
        "http://[::1%2\u00b7lo]:80/",
        "http://[::1%\u00fc]/",
        "http://\udcff/",
        "http://ho st/",
        "http://h%2e/",
        "http://h<b>/",
    ),
]
OTHER_SCHEMES = [
    *("ftp://h/x", "file:///etc/passwd", "s3://b/k", "data:image/png;base64,hunter2", "javascript:alert(1)"),
    *("http+unix://x/", "C:\\hunter2.png", "user:hunter2@h"),
]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [*((uri, "bad_uri") for uri in BAD_URIS), *((uri, "scheme_not_allowed") for uri in OTHER_SCHEMES)],
)
async def test_references_refused_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    names = Names([PUBLIC])
    names.install(monkeypatch)
    assert await refused(uri) == reason
    assert names.connected == []


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    rest=st.text(max_size=40),
    head=st.sampled_from(["", "http://", "https://x/", "file:///", "s3://", "http://[", "gs://b/"]),
)
def test_no_text_raises_anything_but_invalid(head: str, rest: str) -> None:
    policy = replace(WEB, schemes=frozenset({"file", "http", "https"}), file_roots=(Path("/nonexistent"),))

    async def run() -> None:
        async def nowhere(*_: Any, **__: Any) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        loop: Any = asyncio.get_running_loop()
        loop.getaddrinfo = nowhere
        async with fetcher(policy, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as opened:
            with pytest.raises(Invalid):
                await opened.fetch(head + rest)

    asyncio.run(run())


def test_a_policy_knows_its_schemes() -> None:
    with pytest.raises(ValueError, match="ftp"):
        FetchPolicy(schemes=frozenset({"ftp", "http"}))
    assert FetchPolicy().file_roots == ()


# ---- files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "sub dir" / "ü?#%.png").write_bytes(b"picture")
    (folder / "plain.png").write_bytes(b"plain")
    (tmp_path / "outside.png").write_bytes(b"outside")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "x.png").write_bytes(b"outside")
    return folder


def files(*roots: Path) -> FetchPolicy:
    return FetchPolicy(schemes=frozenset({"file"}), file_roots=roots, limits=LIMITS)


async def test_files_below_a_root_are_read(root: Path) -> None:
    uri = (root / "sub dir" / "ü?#%.png").as_uri()
    assert "%20" in uri
    assert "%3F" in uri
    assert await get(uri, files(Path("/nowhere"), root)) == b"picture"
    assert await get(f"file://localhost{root}/plain.png", files(root)) == b"plain"
    assert await get(f"FILE://{root}/sub%20dir/../plain.png", files(root)) == b"plain"
    assert await get(f"file://{root}/%70lain.png", files(root)) == b"plain"


async def test_without_roots_every_file_is_refused(root: Path) -> None:
    assert await refused((root / "plain.png").as_uri(), files()) == "file_outside_roots"


@pytest.mark.parametrize(
    "path",
    [
        *("/../outside.png", "/%2e%2e/outside.png", "/..%2Foutside.png", "/sub dir/../../outside.png", "-too/x.png"),
        *("/../no-such-file", "/../../../../../../etc/passwd"),
    ],
)
async def test_no_way_leads_out_of_the_roots(root: Path, path: str) -> None:
    assert await refused(f"file://{root}{path}", files(root)) == "file_outside_roots"


async def test_links_count_as_what_they_lead_to(root: Path) -> None:
    (root / "out.png").symlink_to(root.parent / "outside.png")
    (root / "outdir").symlink_to(root.parent)
    (root / "in.png").symlink_to(root / "plain.png")
    (root / "self").symlink_to(root / "self")
    (root.parent / "alias").symlink_to(root)
    assert await refused(f"file://{root}/out.png", files(root)) == "file_outside_roots"
    assert await refused(f"file://{root}/outdir/outside.png", files(root)) == "file_outside_roots"
    assert await refused(f"file://{root}/self", files(root)) in {"not_found", "file_outside_roots"}
    assert await get(f"file://{root}/in.png", files(root)) == b"plain"
    assert await get(f"file://{root}/plain.png", files(root.parent / "alias")) == b"plain"


async def test_a_link_put_in_place_after_the_check_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "out.png").symlink_to(root.parent / "outside.png")
    (root / "outdir").symlink_to(root.parent)
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)  # the check saw a plain file there
    assert await refused(f"file://{root}/out.png", files(root)) == "not_found"
    assert await refused(f"file://{root}/outdir/outside.png", files(root)) == "not_found"


async def test_only_regular_files_are_read(root: Path) -> None:
    os.mkfifo(root / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(root, os.O_RDONLY)
    try:
        listener.bind(f"/proc/self/fd/{here}/socket")
    finally:
        os.close(here)
    for name in ("pipe", "socket", "sub%20dir", "", "no-such-file", "%ff", "plain.png/x", "x" * 300):
        assert await refused(f"file://{root}/{name}", files(root)) == "not_found", name
    listener.close()
    assert await refused("file:///dev/zero", files(Path("/dev"))) == "not_found"


async def test_the_limit_on_bytes_of_files(root: Path) -> None:
    (root / "fits").write_bytes(b"x" * 1000)
    (root / "large").write_bytes(b"x" * 1001)
    assert len(await get(f"file://{root}/fits", files(root))) == 1000
    assert await refused(f"file://{root}/large", files(root)) == "too_large"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_what_this_machine_lacks_is_no_fault_of_a_reference(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fetch, "_open_beneath", fail)
    with pytest.raises(Retryable):
        await get(f"file://{root}/plain.png", files(root))

    async def refuse(*_: object) -> None:
        try:
            fail()
        except OSError as lacking:
            raise httpcore.ConnectError("all attempts failed") from lacking

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", refuse)
    with pytest.raises(Retryable):
        await get("http://127.0.0.1:9/x", allowing("127.0.0.1:9"))


async def test_a_chain_of_links_has_an_end(root: Path) -> None:
    (root / "0").write_bytes(b"x")
    for number in range(1, 1500):
        (root / str(number)).symlink_to(root / str(number - 1))
    assert await get(f"file://{root}/20", files(root)) == b"x"
    assert await refused(f"file://{root}/1499", files(root)) == "not_found"


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
async def test_a_file_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fetch, "_open_beneath", fail)
    assert await refused(f"file://{root}/plain.png", files(root)) == "unreachable"


@pytest.mark.parametrize(
    "uri", ["file://host/x", "file:x", "file:", "file://", "file:///x?y", "file:///x#y", "file:///x%00y"]
)
async def test_what_is_not_a_file_reference(uri: str) -> None:
    assert await refused(uri, files(Path("/"))) == "bad_uri"


async def test_no_descriptor_leaks(root: Path) -> None:
    policy = files(root)
    async with fetcher(policy) as opened:
        before = len(os.listdir("/proc/self/fd"))
        for name in ("plain.png", "sub%20dir", "none", "plain.png/x", "sub%20dir/none"):
            await asyncio.gather(opened.fetch(f"file://{root}/{name}"), return_exceptions=True)
        assert len(os.listdir("/proc/self/fd")) == before


# ---- object stores


BUCKETS = FetchPolicy(schemes=frozenset({"s3", "gs"}), limits=LIMITS)


@pytest.fixture
def s3(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for("").rstrip("/"))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return httpserver


OBJECT = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}


async def test_objects_are_read_up_to_the_limit(s3: HTTPServer) -> None:
    s3.expect_request("/bucket/a b/fits.png").respond_with_data(b"x" * 1000, headers=OBJECT)
    s3.expect_request("/bucket/large").respond_with_data(b"x" * 1001, headers=OBJECT)
    assert await get("s3://bucket/a b/fits.png", BUCKETS) == b"x" * 1000
    assert await refused("s3://bucket/large", BUCKETS) == "too_large"


async def test_objects_that_are_not_there_or_not_ours(s3: HTTPServer) -> None:
    s3.expect_request("/bucket/none").respond_with_data(b"<Error><Code>NoSuchKey</Code></Error>", status=404)
    s3.expect_request("/bucket/closed").respond_with_data(b"<Error><Code>AccessDenied</Code></Error>", status=403)
    s3.expect_request("/bucket/down").respond_with_data(b"", status=503)
    s3.expect_request("/bucket/q?token=hunter2").respond_with_data(b"", status=404)
    assert await refused("s3://bucket/q?token=hunter2", BUCKETS) == "not_found"
    assert await refused("s3://bucket/none", BUCKETS) == "not_found"
    assert await refused("s3://bucket/closed", BUCKETS) == "unreachable"
    assert await refused("s3://bucket/down", BUCKETS) == "unreachable"


@pytest.mark.parametrize(
    "uri", ["s3://bucket", "s3://bucket/", "s3://", "s3:bucket/x", "s3://u:hunter2@bucket/x", "s3://B!/x"]
)
async def test_what_is_not_an_object_reference(uri: str) -> None:
    assert await refused(uri, BUCKETS) == "bad_uri"


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//b", "./x"])
async def test_odd_keys_never_leave_the_bucket(s3: HTTPServer, key: str) -> None:
    assert await refused(f"s3://bucket/{key}", BUCKETS) in {"bad_uri", "not_found", "unreachable"}
    assert all(request.path.startswith("/bucket/") for request, _ in s3.log)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
async def test_without_credentials_a_store_is_unreachable(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    policy = replace(BUCKETS, limits=replace(LIMITS, timeout_s=10, connect_timeout_s=0.5))
    started = time.monotonic()
    assert await refused(f"{scheme}://bucket/x", policy) == "unreachable"
    assert time.monotonic() - started < 9


async def test_a_store_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, s3: HTTPServer) -> None:
    async with raw_server(says(b"", pause_s=20)) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        policy = replace(BUCKETS, limits=replace(LIMITS, timeout_s=0.5))
        assert await refused("s3://bucket/x", policy) in {"fetch_timeout", "unreachable"}
