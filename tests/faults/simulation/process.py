"""A worker process of a schedule. Everything it does to the outside passes through `at` or `touch`, where it may die,
hang, wake as a zombie, meet a dependency that is down, or be asked to stop.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, Final

from streams.errors import Retryable
from tests.faults.simulation.faults import Faults

_STEP_S: Final = 0.01


class Killed(BaseException):
    """SIGKILL: nothing of this process reaches the outside any more."""


class Process:
    """One process on one machine, whose disk is `folder`."""

    def __init__(self, name: str, folder: Path, faults: Faults) -> None:
        self.name = name
        self.folder = folder
        self._faults = faults
        self.is_alive = True
        self.on_death: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.on_freeze: Callable[[float], None] = lambda _: None
        self.on_rebalance: Callable[[], None] = lambda: None
        self._awake = asyncio.Event()
        self._awake.set()
        self._when_awake: list[Callable[[], object]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which a replay makes them too
        self._context = copy_context()
        self._context.run(current.set, self)

    # Tasks

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this process."""
        return self._context.run(asyncio.get_running_loop().create_task, coroutine)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Remember a task that ends with the process."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    # Life and death

    @property
    def is_frozen(self) -> bool:
        """Whether it is stopped (SIGSTOP)."""
        return self.is_alive and not self._awake.is_set()

    def when_awake(self, call: Callable[[], object]) -> None:
        """Call it when the process goes on, or is dead."""
        self._when_awake.append(call)

    def kill(self) -> None:
        """SIGKILL."""
        if self.is_alive:
            self.is_alive = False
            self.wake()
            for task in list(self._tasks):
                task.cancel()
            self.on_death()

    def freeze(self, duration_s: float) -> None:
        """SIGSTOP, and after a while SIGCONT."""
        if self._awake.is_set():
            self._awake.clear()
            asyncio.get_running_loop().call_later(duration_s, self.wake)
            self.on_freeze(duration_s)

    def wake(self) -> None:
        """SIGCONT."""
        self._awake.set()
        waiting, self._when_awake = self._when_awake, []
        for call in waiting:
            call()

    # Effects

    async def at(self, point: str, *, network: bool = False) -> None:
        """A step, where others may come first and anything may happen. network: it may fail, Retryable."""
        await asyncio.sleep(self._faults.rng.expovariate(1 / _STEP_S))
        await self._thaw()
        fault = self.touch(point, network=network)
        if fault == "delay":
            await asyncio.sleep(self._faults.rng.uniform(0.1, 3.0))
        await self._thaw()
        self._be_alive()

    async def _thaw(self) -> None:
        while self.is_frozen:
            await self._awake.wait()

    def touch(self, point: str, *, network: bool = False) -> str:
        """The same where nobody can wait, as in a thread."""
        self._be_alive()
        fault = self._faults.draw(self.name, point, network=network)
        match fault:
            case "crash":
                self.kill()
            case "freeze":
                self.freeze(self._faults.pause_s())
            case "stop":
                self.on_stop()
            case "rebalance":
                self.on_rebalance()
            case "retry":
                raise Retryable(f"{point}: simulated")
        self._be_alive()
        return fault

    def _be_alive(self) -> None:
        if not self.is_alive:
            raise Killed


current: ContextVar[Process] = ContextVar("current")
