"""Promise 10: a reference reaches no address and no file that it must not, and costs no more than it may.

Proved by traps: listeners on every address of this machine that nobody may connect to, and a hook below every socket of
the interpreter that tells of every attempt to connect, also to addresses that are not here.
"""

import asyncio
import os
import random
import re
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import httpcore
import pytest

from streams.embed.fetch import Fetcher, FetchLimits, FetchPolicy, is_public
from streams.errors import Invalid
from tests.certificates import Authority
from tests.faults.conftest import Figure
from tests.faults.references import servers, spellings
from tests.faults.references.trap import Trap, trapped

PUBLIC: Final = "93.184.215.14"
LIMITS: Final = FetchLimits(max_bytes=200_000, timeout_s=1.0, connect_timeout_s=1.0, retries=1)
WEB: Final = FetchPolicy(schemes=frozenset({"http", "https"}), limits=LIMITS)
PATIENT: Final = replace(WEB, limits=replace(LIMITS, retries=0, timeout_s=30))
"""Where nothing is waited for but a loaded machine."""
NOT_OPENED: Final = frozenset({"address_refused", "bad_uri", "unreachable", "scheme_not_allowed"})
_AT_ONCE: Final = 32
_SLACK_S: Final = 8.0
"""For a loaded machine; what is measured is told."""


@pytest.fixture
def trap() -> Iterator[Trap]:
    with trapped() as opened:
        yield opened


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def fetcher(policy: FetchPolicy, tls: ssl.SSLContext | None = None) -> AsyncIterator[Fetcher]:
    opened = Fetcher(policy, tls)
    try:
        yield opened
    finally:
        await opened.close()


async def reason(opened: Fetcher, uri: str) -> str:
    """Why a reference was refused; "" when it was read."""
    try:
        await opened.fetch(uri)
    except Invalid as error:
        str(error).encode()  # it becomes a header
        return error.reason
    return ""


async def reasons(policy: FetchPolicy, uris: Sequence[str]) -> dict[str, str]:
    """Of many references, several at once."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(opened: Fetcher, uri: str) -> tuple[str, str]:
        async with places:
            return uri, await reason(opened, uri)

    async with fetcher(policy) as opened:
        return dict(await asyncio.gather(*(one(opened, uri) for uri in uris)))


def allowing(*ports: int, **limits: Any) -> FetchPolicy:
    hosts = frozenset(f"127.0.0.1:{port}" for port in ports)
    return replace(WEB, allow_private_hosts=hosts, limits=replace(LIMITS, **limits))


@pytest.fixture
async def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only literals and names of this machine resolve, by the machine's own resolver, which knows every spelling; and
    what turns out to be a public address is not called."""

    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        flags = 0 if "localhost" in host.lower() else socket.AI_NUMERICHOST
        found = resolve(host, port, flags=flags, **options)
        if any(ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found):
            raise socket.gaierror(socket.EAI_NONAME, "public")
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


class Names:
    """A name server in the hands of the writer of the reference, and a network that only notes who is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        self.answer = answer
        self.asked = 0
        self.called: list[str] = []

        def getaddrinfo(_: str, port: int, **__: Any) -> list[Any]:
            self.asked += 1
            return [(0, 0, 0, "", (address, port)) for address in self.answer(self.asked)]

        async def connect_tcp(_: Any, host: str, *__: Any) -> httpcore.AsyncNetworkStream:
            self.called.append(host)
            raise httpcore.ConnectError("nobody there")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)


# ---- addresses


async def test_no_spelling_of_an_address_reaches_it(no_dns: None, trap: Trap, long: bool, figure: Figure) -> None:
    rng = random.Random(20)
    uris = [f"{scheme}://{host}:{trap.port}/x" for host in spellings.hosts() for scheme in ("http", "https")]
    for host in ("127.0.0.1", "2130706433", "[::ffff:7f00:1]", "169.254.169.254", "localhost"):
        uris += spellings.disguised(host, trap.port)
    uris += [spellings.random_reference(rng, trap.port) for _ in range(100_000 if long else 2000)]
    found = await reasons(PATIENT, list(dict.fromkeys(uris)))
    assert set(found.values()) <= NOT_OPENED, {u: w for u, w in found.items() if w not in NOT_OPENED}
    assert (trap.connections, trap.attempts) == (0, [])
    refused = sum(why == "address_refused" for why in found.values())
    assert refused > 500
    figure(
        10,
        f"{len(found):,} references to internal addresses, {refused:,} by spellings that resolve: 0 connections",
    )


async def test_the_trap_works(no_dns: None, trap: Trap) -> None:
    """The counterpart: without the check of addresses these would have reached it."""
    hosts = ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0"]  # noqa: S104
    exempt = frozenset(f"{host}:{trap.port}" for host in [*hosts, "[::ffff:7f00:1]"])
    found = await reasons(replace(WEB, allow_private_hosts=exempt), [f"http://{host}:{trap.port}/" for host in hosts])
    assert set(found.values()) == {"unreachable"}, found
    await asyncio.sleep(0.2)
    assert trap.connections >= len(hosts)
    assert len(trap.attempts) >= len(hosts)


async def test_no_redirect_leads_there(no_dns: None, trap: Trap, figure: Figure) -> None:
    places = [f"http://{host}:{trap.port}/" for host in spellings.hosts()]
    places += [f"//{host}:{trap.port}/" for host in ("127.0.0.1", "localhost", "[::1]", "127.1")]
    for host in ("127.0.0.1", "169.254.169.254"):
        places += [uri for uri in spellings.disguised(host, trap.port) if "\n" not in uri]
    places += OTHER_SCHEMES

    async def redirect(request: bytes, writer: asyncio.StreamWriter) -> None:
        number = re.search(rb"GET /(\d+)", request)
        assert number is not None
        location = places[int(number[1])].encode()
        writer.write(b"HTTP/1.1 307 x\r\nConnection: close\r\nLocation: " + location + b"\r\n\r\n")

    async with servers.serving(redirect) as port:
        policy = replace(allowing(port), schemes=frozenset({"http", "https", "file", "s3"}), file_roots=(Path("/"),))
        found = await reasons(policy, [f"http://127.0.0.1:{port}/{number}" for number in range(len(places))])
    # What is no reference at all is read as a path of the same server, which redirects it again, or fails to.
    allowed = NOT_OPENED | {"too_many_redirects", "http_status", "fetch_timeout"}
    assert set(found.values()) <= allowed, {places[int(u.rpartition("/")[2])]: w for u, w in found.items()}
    assert trap.connections == 0
    assert {where[1] for where in trap.attempts} <= {port}
    figure(10, f"{len(places)} redirects to them and to other schemes: 0 connections")


PRIVATE: Final = (
    *spellings.INTERNAL_IPV4, *spellings.INTERNAL_IPV6, "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    "2001:0:5db8:d822::80ff:fffe", "fe80::1%lo", "::127.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_names_that_have_such_an_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address], [address, PUBLIC], [PUBLIC] * 10 + [address]):
        names = Names(monkeypatch, lambda _, answer=answer: answer)
        async with fetcher(PATIENT) as opened:
            assert await reason(opened, "http://metadata.google.internal/computeMetadata/v1/") == "address_refused"
        assert names.called == []


async def test_names_that_change_their_mind(monkeypatch: pytest.MonkeyPatch, long: bool, figure: Figure) -> None:
    """DNS rebinding: public when asked for the check, private when asked for the connection."""
    rng = random.Random(7)

    def answer(_: int) -> list[str]:
        return rng.choices([PUBLIC, "8.8.8.8", *PRIVATE], k=rng.randint(1, 3)) if rng.random() < 0.5 else [PUBLIC]

    tries = 5000 if long else 300
    names = Names(monkeypatch, answer)
    async with fetcher(PATIENT) as opened:
        for _ in range(tries):
            assert await reason(opened, "http://rebinding.example/") in {"address_refused", "unreachable"}
    assert names.asked == tries  # each was resolved once: there is no second answer to fall for
    assert names.called
    assert set(names.called) <= {PUBLIC, "8.8.8.8"}
    figure(10, f"{tries:,} answers of a rebinding name server: 0 connections to a private address")


OTHER_SCHEMES: Final = [
    "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://127.0.0.1/x", "data:image/png;base64,iVBORw0KGgo=", "ldap://127.0.0.1/",
    "jar:http://127.0.0.1!/x", "dict://127.0.0.1:11211/stats", "javascript:alert(1)", "php://filter/x", "tftp://127.0.0.1/x",
    "netdoc:///etc/passwd", "view-source:http://127.0.0.1/", "ws://127.0.0.1/", "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/x", "blob:http://127.0.0.1/", "smb://127.0.0.1/x", "\\\\127.0.0.1\\x",
    "az://container/x", "hdfs://127.0.0.1/x", "abfs://127.0.0.1/x", "file+http://127.0.0.1/", "httpx://127.0.0.1/",
    "s3a://bucket/x", "file:///etc/passwd", "s3://bucket/x", "gs://bucket/x", "about:blank", "cid:x", "//127.0.0.1/x",
]  # fmt: skip


async def test_other_schemes_open_nothing(trap: Trap) -> None:
    found = await reasons(WEB, [uri.replace("127.0.0.1", f"127.0.0.1:{trap.port}") for uri in OTHER_SCHEMES])
    assert set(found.values()) <= {"scheme_not_allowed", "bad_uri"}
    assert (trap.connections, trap.attempts) == (0, [])


# ---- servers that lie, dawdle or never end


@pytest.mark.alone
async def test_a_server_costs_no_more_than_it_may(long: bool, figure: Figure) -> None:
    rounds = 20 if long else 1
    slowest, highest = 0.0, 0
    for name, (handler, wanted) in servers.bodies(LIMITS.max_bytes).items():
        async with servers.serving(handler) as port, fetcher(allowing(port)) as opened:
            tracemalloc.start()
            started = time.monotonic()
            try:
                answers = await asyncio.gather(*(reason(opened, f"http://127.0.0.1:{port}/") for _ in range(rounds)))
                elapsed, memory = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert set(answers) <= wanted, (name, answers)
        assert elapsed < LIMITS.timeout_s + _SLACK_S, (name, elapsed)
        # The body as it grows, the copy that is handed on, and what the connection and the server here hold back.
        assert memory < rounds * (4 * LIMITS.max_bytes + (1 << 20)), (name, memory)
        slowest, highest = max(slowest, elapsed), max(highest, memory // rounds)
    figure(
        10,
        f"{len(servers.bodies(1))} servers that lie, dawdle or never end: cut off after {slowest:.1f} s at the latest"
        f" (limit {LIMITS.timeout_s:g} s), with at most {highest / 1e6:.1f} MB (limit of a body 0.2 MB)",
    )


async def _after_handshake(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Bytes that are no TLS, past the layer that encrypts."""
    raw = writer.get_extra_info("socket")
    os.write(raw.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await asyncio.sleep(0.2)


async def test_tls_to_a_wrong_server(authority: Authority, tmp_path: Path) -> None:
    def served_with(pair: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        return context

    trusting = ssl.create_default_context(cafile=str(authority.cert))
    good = servers.says([servers.OK + b"Content-Length: 2\r\n\r\nok"])
    right = served_with(authority.sign("right", "127.0.0.1"))
    wrong = served_with(authority.sign("wrong", "other.example", "10.0.0.1"))
    unnamed = served_with(authority.sign("unnamed"))
    foreign = served_with(Authority(tmp_path, "stranger").sign("foreign", "127.0.0.1"))
    cases: list[tuple[servers.Handler, ssl.SSLContext | None, str]] = [
        (good, right, ""),
        (good, wrong, "unreachable"),
        (good, unnamed, "unreachable"),
        (good, foreign, "unreachable"),
        (good, None, "unreachable"),  # never answers the handshake
        (_after_handshake, right, "unreachable"),
        (servers.forever(servers.OK + b"\r\n", b"x" * 65536), right, "too_large"),
        (servers.silent, right, "fetch_timeout"),
    ]
    for number, (handler, context, wanted) in enumerate(cases):
        async with servers.serving(handler, context) as port, fetcher(allowing(port), trusting) as opened:
            assert await reason(opened, f"https://127.0.0.1:{port}/") in {
                wanted,
                *(["fetch_timeout"] if wanted else []),
            }, number


# ---- files


SECRET: Final = b"secret of this machine"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that may be read, in a folder that may not; full of ways out."""
    folder = tmp_path / "allowed"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "fine.png").write_bytes(b"fine")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "secret").write_bytes(SECRET)
    targets = {
        "absolute": tmp_path / "secret", "relative": Path("../secret"), "folder": tmp_path, "parent": Path(".."),
        "chain": Path("absolute"), "environ": Path("/proc/self/environ"), "memory": Path("/proc/self/mem"),
        "cwd": Path("/proc/self/cwd"), "fs": Path("/proc/self/root"), "descriptors": Path("/dev/fd"),
        "zero": Path("/dev/zero"), "random": Path("/dev/urandom"), "console": Path("/dev/tty"), "loop": Path("loop"),
        "ping": Path("pong"), "pong": Path("ping"), "self": Path("."), "pipe-outside": tmp_path / "pipe",
    }  # fmt: skip
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(folder / "pipe")
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    return folder


async def test_no_path_leads_out_of_the_allowed_folders(root: Path, figure: Figure) -> None:
    up = [
        "..",
        "%2e%2e",
        ".%2e",
        "%2E.",
        "..%2f..",
        "deep/../..",
        "deep/deeper/../../..",
        "parent",
        "folder",
        "self/..",
    ]
    inside = [f"file://{root}/{path}" for path in (
        *(f"{way}/secret" for way in up), *(f"{way}/allowed-not/secret" for way in up), "absolute", "relative",
        "chain", "environ", "memory", "zero", "random", "console", "loop", "ping", "pipe", "pipe-outside", "sparse",
        "self", "deep", f"fs{root}/../secret", f"cwd/{'../' * 20}etc/passwd", "descriptors/0", "%2e%2e%5csecret",
        "..\\secret", "..%c0%afsecret", "..%252fsecret", "%00/../../secret", "fine.png%00/../../secret",
        "fine.png/../../secret", "..;/secret", "....//secret", "~/secret", "fine.png?/../../secret",
        "fine.png#/../../secret",
    )]  # fmt: skip
    elsewhere = [
        "/etc/passwd", "/proc/self/environ", "/proc/self/mem", "/proc/1/environ", "/proc/kcore", "/proc/kmsg",
        "/dev/zero", "/dev/stdin", "/dev/fd/0", "/dev/mem", "/sys/kernel/notes", "/run/secrets/x",
        "/var/run/docker.sock", "//etc/passwd", "/./etc/passwd", "/../etc/passwd", f"{root}-not/secret",
        f"{root.parent}/secret", f"/proc/self/root{root.parent}/secret",
        f"/proc/self/cwd/{'../' * 20}{root.parent}/secret".replace("//", "/"), f"/proc/{os.getpid()}/environ",
    ]  # fmt: skip
    authorities = [
        "file://",
        "file:",
        "FILE://",
        "file://localhost",
        "file://LOCALHOST",
        "file://127.0.0.1",
        "file://evil.example",
    ]
    uris = [*inside, *(f"{start}{path}" for start in authorities for path in elsewhere)]
    policy = FetchPolicy(schemes=frozenset({"file"}), file_roots=(root,), limits=LIMITS)
    started = time.monotonic()
    found = await reasons(policy, uris)
    wanted = {"file_outside_roots", "bad_uri", "not_found", "too_large"}
    assert set(found.values()) <= wanted, {u: w for u, w in found.items() if w not in wanted}
    assert [uri for uri, why in found.items() if why == "too_large"] == [f"file://{root}/sparse"]
    assert time.monotonic() - started < _SLACK_S
    async with fetcher(policy) as opened:
        assert await opened.fetch(f"file://{root}/deep/../fine.png") == b"fine"
    figure(10, f"{len(uris)} paths out of the allowed folders: 0 read")


async def test_a_path_that_changes_while_it_is_opened(root: Path, long: bool, figure: Figure) -> None:
    """A folder and a file are exchanged for links to the outside and back, as fast as can be."""
    (root / "swapped").mkdir()
    (root / "swapped" / "secret").write_bytes(b"fine")
    (root / "link").symlink_to(root.parent)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "swapped", root / "aside")
            os.rename(root / "link", root / "swapped")
            os.rename(root / "swapped", root / "link")
            os.rename(root / "aside", root / "swapped")

    policy = FetchPolicy(schemes=frozenset({"file"}), file_roots=(root,), limits=LIMITS)
    tries, seen = 30_000 if long else 1000, set()
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        async with fetcher(policy) as opened:
            for _ in range(tries):
                try:
                    seen.add((await opened.fetch(f"file://{root}/swapped/secret")).decode())
                except Invalid as error:
                    seen.add(error.reason)
    finally:
        stop.set()
        thread.join()
    assert seen <= {"fine", "file_outside_roots", "not_found", "unreachable"}
    assert len(seen) > 1  # the race did take place
    figure(10, f"{tries:,} reads of a path exchanged for a link meanwhile: 0 from outside")


# ---- object stores


BUCKETS: Final = FetchPolicy(schemes=frozenset({"s3", "gs"}), limits=replace(LIMITS, timeout_s=5.0))
EVIL_OBJECTS: Final = [
    "169.254.169.254/latest/meta-data/iam/security-credentials/", "metadata.google.internal/computeMetadata/v1/token",
    "127.0.0.1/x", "localhost/x", "127.0.0.1:80/x", "user:password@127.0.0.1/x", "a@127.0.0.1/x", "127.0.0.1#/x",
    "bucket/../../../latest/meta-data", "bucket/..%2f..%2flatest", "bucket/?x=@169.254.169.254/",
    "bucket/#@169.254.169.254/", "bucket//169.254.169.254/x", "bucket/http://169.254.169.254/x",
    "bucket/%2e%2e/%2e%2e/x", "bucket\\@169.254.169.254/x", "bucket.127.0.0.1.nip.io/x",
    "bucket%2f@169.254.169.254/x", "bucket\r\nHost: 169.254.169.254/x", "[::1]/x", "bucket/\x00x",
    "bucket/x?versionId=1&endpoint=http://169.254.169.254", "2852039166/latest", "0xa9fea9fe/latest", "..", "./x",
    "-/x",
]  # fmt: skip


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that finds nothing, and what it was asked."""
    asked: list[bytes] = []

    async def nothing(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    async with servers.serving(nothing) as port:
        yield port, asked


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "GCE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")


async def test_a_reference_to_an_object_chooses_no_host(
    no_credentials: None, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    async with recording() as (store, asked), recording() as (metadata, told):
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store}", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_METADATA_ENDPOINT": f"http://127.0.0.1:{metadata}",
            "GCE_METADATA_HOST": f"127.0.0.1:{metadata}", "GCE_METADATA_IP": f"127.0.0.1:{metadata}",
            "GCE_METADATA_ROOT": f"127.0.0.1:{metadata}",
        }  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        uris = [f"s3://{rest}" for rest in EVIL_OBJECTS]
        found = await reasons(BUCKETS, uris)
        assert set(found.values()) <= {"bad_uri", "not_found", "unreachable"}, found
        assert asked
        for request in asked:
            head = request.split(b"\r\n")
            assert head[0].startswith(b"GET /"), head[0]
            assert f"host: 127.0.0.1:{store}".encode() in [line.lower() for line in head[1:]]
        off = await reasons(WEB, [*uris, *(f"gs://{rest}" for rest in EVIL_OBJECTS)])
        assert set(off.values()) <= {"bad_uri", "scheme_not_allowed"}
        assert told == []  # who has credentials of its own asks nobody for them
    figure(10, f"{2 * len(EVIL_OBJECTS)} references to objects: no host but the endpoint was asked")


async def test_only_the_store_itself_asks_for_its_credentials(
    no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that has none asks where the machine's cloud keeps them: the same whatever the reference says."""
    async with recording() as (metadata, told):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{metadata}")
        found = await reasons(BUCKETS, [f"s3://{rest}" for rest in EVIL_OBJECTS])
    assert set(found.values()) <= {"bad_uri", "unreachable"}
    assert {request.split(b"\r\n")[0] for request in told} <= {
        b"PUT /latest/api/token HTTP/1.1",
        b"GET /latest/meta-data/iam/security-credentials/ HTTP/1.1",
        b"GET /latest/meta-data/iam/security-credentials HTTP/1.1",
    }


async def test_google_s_store_has_one_host(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recording() as (proxy, asked):
        for name in ("HTTPS_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        found = await reasons(replace(BUCKETS, limits=LIMITS), [f"gs://{rest}" for rest in EVIL_OBJECTS])
    assert set(found.values()) <= {"bad_uri", "unreachable", "fetch_timeout"}
    assert asked
    assert {request.split(b"\r\n")[0] for request in asked} == {b"CONNECT storage.googleapis.com:443 HTTP/1.1"}
