"""Certificates that cannot be used, and sides that do not trust each other, on both event loops: tests run on one, the
worker on the other.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from streams.errors import Fatal
from streams.local import HOST
from streams.tls import Tls
from tests.certificates import Authority, Pair, openssl

Serve = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.sign("server", HOST, "triton.example")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


class TestFiles:
    def test_authorities_that_are_none(self, tmp_path: Path) -> None:
        for name, content in (("empty.pem", b""), ("text.pem", b"hello"), ("bytes.pem", b"\x00\xff")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(Fatal, match=rf"^kafka_ca_file .*{name}: no certificates in PEM"):
                Tls("kafka", tmp_path / name).client_context()

    def test_a_key_of_another_certificate(self, authority: Authority, server: Pair) -> None:
        other = authority.sign("other")
        with pytest.raises(Fatal, match=r"kafka_cert_file .*server.pem and kafka_key_file .*other.key cannot be used"):
            Tls("kafka", authority.cert, server.cert, other.key).client_context()

    def test_a_certificate_that_is_gone(self, authority: Authority, server: Pair, tmp_path: Path) -> None:
        with pytest.raises(Fatal, match="No such file"):
            Tls("web", None, tmp_path / "none.pem", server.key).server_context()

    def test_an_encrypted_key_is_refused_and_nobody_is_asked(self, server: Pair, tmp_path: Path) -> None:
        key = tmp_path / "encrypted.key"
        openssl("pkey", "-in", server.key, "-aes256", "-passout", "pass:word", "-out", key)
        with pytest.raises(Fatal, match=r"kafka_key_file .*encrypted.key is encrypted"):
            Tls("kafka", None, server.cert, key).client_context()

    def test_names_and_certificates_are_always_checked(self, authority: Authority) -> None:
        for tls in (Tls("kafka"), Tls("kafka", authority.cert)):
            context = tls.client_context()
            assert context.check_hostname
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    connection.recv(1)


def say_nothing(connection: socket.socket) -> None:
    connection.recv(1)


def hang_up(_: socket.socket) -> None:
    pass


def talk_on(connection: socket.socket) -> None:
    """Whatever the other side does, as a broker that has an answer under way."""
    for _ in range(40):
        connection.sendall(b"x")
        time.sleep(0.05)


@contextmanager
def serving(context: ssl.SSLContext | None, serve: Serve) -> Iterator[int]:
    """A server for one connection in a thread; its port."""

    def work() -> None:
        with suppress(OSError), listening.accept()[0] as plain:
            plain.settimeout(10)
            with plain if context is None else context.wrap_socket(plain, server_side=True) as connection:
                serve(connection)

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=work)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
class TestRefusal:
    """Each server is a real one; the answer comes within seconds whatever it does."""

    def ask(self, loop: Any, tls: Tls, context: ssl.SSLContext | None, serve: Serve = greet) -> str:
        with serving(context, serve) as port, asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(asyncio.wait_for(tls.refusal(HOST, port), 10))

    def test_who_trusts_each_other(self, loop: Any, authority: Authority, server: Pair) -> None:
        context = Tls("x", None, server.cert, server.key).server_context()
        assert self.ask(loop, Tls("triton", authority.cert), context) == ""
        assert self.ask(loop, Tls("triton", authority.cert), context, say_nothing) == ""
        assert self.ask(loop, Tls("triton", authority.cert, server_name="triton.example"), context) == ""

    def test_another_authority(self, loop: Any, stranger: Authority, server: Pair) -> None:
        context = Tls("x", None, server.cert, server.key).server_context()
        for tls in (Tls("triton", stranger.cert), Tls("triton")):
            reason = self.ask(loop, tls, context)
            assert reason.startswith("certificate verify failed")
            assert reason.endswith("see triton_ca_file")

    def test_another_name(self, loop: Any, authority: Authority, server: Pair) -> None:
        context = Tls("x", None, server.cert, server.key).server_context()
        tls = Tls("milvus", authority.cert, server_name="other.example")
        assert "not valid for 'other.example'" in self.ask(loop, tls, context)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_certificate_that_is_missed(
        self, loop: Any, version: ssl.TLSVersion, authority: Authority, stranger: Authority, server: Pair
    ) -> None:
        context = Tls("x", None, server.cert, server.key).server_context()
        context.maximum_version = version
        context.load_verify_locations(authority.cert)
        context.verify_mode = ssl.CERT_REQUIRED
        client, other = authority.sign("client"), stranger.sign("client")
        assert self.ask(loop, Tls("triton", authority.cert, client.cert, client.key), context) == ""
        for tls in (Tls("triton", authority.cert), Tls("triton", authority.cert, other.cert, other.key)):
            assert self.ask(loop, tls, context) != ""

    def test_who_hangs_up_on_strangers(self, loop: Any, authority: Authority, server: Pair) -> None:
        context = Tls("x", None, server.cert, server.key).server_context()
        reason = self.ask(loop, Tls("triton", authority.cert), context, hang_up)
        assert reason == "it hangs up after the handshake; see triton_cert_file"

    def test_a_server_without_tls(self, loop: Any, authority: Authority) -> None:
        assert "speaks no TLS" in self.ask(loop, Tls("triton", authority.cert), None)

    def test_nobody_is_judged_who_is_down_or_starting(self, loop: Any, authority: Authority) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            assert runner.run(Tls("triton", authority.cert).refusal(HOST, 1)) == ""
        assert self.ask(loop, Tls("triton", authority.cert), None, hang_up) == ""


@pytest.mark.parametrize(
    ("loop", "closes"), [(asyncio.new_event_loop, True), (uvloop.new_event_loop, False)], ids=["asyncio", "uvloop"]
)
def test_why_a_worker_with_tls_runs_without_uvloop(loop: Any, closes: bool, authority: Authority, server: Pair) -> None:
    """uvloop (thread 471) goes on reading, for up to 30 s, when the other side still sends. Should it learn to close,
    `streams/cli/worker.py` need not choose a loop."""

    async def closes_at_once(port: int) -> bool:
        context = Tls("kafka", authority.cert).client_context()
        reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
        await reader.read(1)
        writer.close()
        try:
            async with asyncio.timeout(1):
                await writer.wait_closed()
        except TimeoutError:
            writer.transport.abort()
            return False
        except ssl.SSLError:  # what was still on its way came after our good-bye
            pass
        return True

    context = Tls("x", None, server.cert, server.key).server_context()
    with serving(context, talk_on) as port, asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(closes_at_once(port)) is closes
