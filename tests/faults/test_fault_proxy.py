"""The proxy itself: each way to break does what its name says, and healing heals."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from streams.local import HOST
from tests.faults.fault_proxy import FaultProxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionResetError:
            pass


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with socketserver.ThreadingTCPServer((HOST, 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with FaultProxy(f"{HOST}:{server.server_address[1]}") as proxy:
            yield proxy
        server.shutdown()


def connect(proxy: FaultProxy, timeout_s: float = 5.0) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=timeout_s)


def asked(client: socket.socket, what: bytes = b"hello") -> bytes:
    client.sendall(what)
    answer = b""
    while len(answer) < len(what):
        if not (part := client.recv(65536)):
            break
        answer += part
    return answer


def test_passes_on_what_it_gets(proxy: FaultProxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        large = bytes(range(256)) * 4000
        assert asked(one, large) == large
        assert asked(two) == b"hello"


def test_a_cut_resets_and_refuses_until_it_heals(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as client:
        assert asked(client) == b"hello"


def test_a_black_hole_keeps_connections_and_swallows(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert asked(old) == b"hello"
        proxy.black_hole()
        with connect(proxy) as new:
            for client in (old, new):
                client.settimeout(0.3)
                client.sendall(b"lost")
                with pytest.raises(TimeoutError):
                    client.recv(1)
            proxy.heal()
            for client in (old, new):  # they were lost, and nobody tells them
                client.sendall(b"lost")
                with pytest.raises(TimeoutError):
                    client.recv(1)
            assert proxy.swallowed_bytes == 16
    with connect(proxy) as fresh:
        assert asked(fresh) == b"hello"


def test_a_slow_network_delays_and_narrows(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        proxy.slow(0.1)
        begin = time.monotonic()
        assert asked(client) == b"hello"
        assert time.monotonic() - begin >= 0.2  # there and back
        proxy.slow(0.0, bytes_per_s=100_000)
        begin = time.monotonic()
        assert asked(client, bytes(20_000)) == bytes(20_000)
        assert time.monotonic() - begin >= 0.4
        proxy.heal()
        assert asked(client) == b"hello"


def test_an_end_is_passed_on(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_nobody_there(proxy: FaultProxy) -> None:
    with FaultProxy(f"{HOST}:1") as nowhere, connect(nowhere) as client:
        assert client.recv(1) == b""
