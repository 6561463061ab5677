"""An event loop without a wall clock: nobody waits, time jumps to the next thing that is due, and a call in a thread is
a step of the loop. What runs in which order follows from the delays, which are drawn from the seed.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final

from tests.faults.simulation.process import Killed, Process, current

_THREAD_S: Final = 0.002
_MOST_TURNS: Final = 400_000
"""Far more than a schedule takes: beyond it, it runs in a circle."""


class Stuck(Exception):
    """The schedule cannot end."""


class _Clock:
    """In place of a selector: instead of waiting, time goes on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        self.turns += 1
        if timeout is None:
            raise Stuck("every task waits for another one")
        if self.turns > _MOST_TURNS:
            raise Stuck("no end in sight")
        self.now += timeout
        return []

    def close(self) -> None:
        pass


class SimulatedLoop(asyncio.BaseEventLoop):
    """Deterministic: the same seed gives the same order of everything."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._selector = self.clock = _Clock()
        self._rng = rng
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._free: dict[Executor | None, float] = {}
        self.set_task_factory(self._task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda _loop, _context: None)  # tasks of the dead have nobody to complain to

    def time(self) -> float:
        """Seconds since the schedule began."""
        return self.clock.now

    def _process_events(self, _: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The calls of one executor, of one thread each here, one after the other; each is a single step."""
        future = self.create_future()
        # Counted up, so that calls of one thread keep their order.
        due = max(self.time(), self._free.get(executor, 0.0)) + self._rng.expovariate(1 / _THREAD_S) + 1e-6
        self._free[executor] = due
        self.call_at(due, self._call, current.get(None), future, func, args)
        return future

    def _call(self, process: Process | None, future: asyncio.Future[Any], func: Callable[..., Any], args: Any) -> None:
        if process is not None and process.is_frozen:
            process.when_awake(lambda: self._call(process, future, func, args))
            return
        name = func.__name__.strip("_")
        try:
            if process is not None:
                process.touch(f"before {name}")
            answer = func(*args)
            if process is not None:
                process.touch(f"after {name}")
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            if not future.cancelled():
                future.set_exception(error if not isinstance(error, StopIteration) else RuntimeError("stopped"))
        else:
            if not future.cancelled():
                future.set_result(answer)

    def _task(
        self,
        _: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """A task, known to the process it belongs to."""
        process = current.get(None)
        if process is not None and not process.is_alive:
            coroutine.close()
            raise Killed
        task = asyncio.Task(coroutine, loop=self, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        if process is not None:
            process.adopt(task)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """The tasks that still run, in the order in which they were made."""
        return list(self._tasks)
