"""A listener on every address of this machine that counts who connects, and a record of every attempt to connect."""

import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

_LISTENING_S: Final = 0.05


class Trap:
    """Ports that no reference may reach. `attempts`: the addresses that this process tried to connect to, also those
    that nobody listens on."""

    def __init__(self) -> None:
        self.connections = 0
        self.attempts: list[tuple[str, int]] = []
        self._listeners = [socket.create_server(("0.0.0.0", 0))]  # noqa: S104 - to catch those to any address
        self.port: int = self._listeners[0].getsockname()[1]
        with contextlib.suppress(OSError):  # where there is no IPv6, no address of it can be reached
            self._listeners.append(socket.create_server(("::", self.port), family=socket.AF_INET6))
        self._open = True
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while self._open:
                for key, _ in selector.select(_LISTENING_S):
                    assert isinstance(key.fileobj, socket.socket)
                    key.fileobj.accept()[0].close()
                    self.connections += 1

    def close(self) -> None:
        """Stop listening; who connected before is counted."""
        self._open = False
        self._thread.join()
        for listener in self._listeners:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                self.connections += 1
            listener.close()


_watching: list[Trap] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _watching and isinstance(arguments[1], tuple):
        for trap in _watching:
            trap.attempts.append(arguments[1][:2])


sys.addaudithook(_audit)


@contextlib.contextmanager
def trapped() -> Iterator[Trap]:
    """A trap that is set and watches."""
    trap = Trap()
    _watching.append(trap)
    try:
        yield trap
    finally:
        _watching.remove(trap)
        trap.close()
