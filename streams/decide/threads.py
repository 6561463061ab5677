"""Threads of the event loop: a call in one is over before anybody goes on, cancelled or not."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(executor: Executor, call: Callable[..., T], *args: object) -> T:
    """What `call` returns. A thread cannot be interrupted, so a cancellation waits for it: the caller still holds its
    locks when it ends."""
    future = asyncio.get_running_loop().run_in_executor(executor, call, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # looked at, so that nobody complains
        raise
