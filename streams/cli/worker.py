"""`design-dedup worker`: one process of the service, from its start to a graceful end."""

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, Final

import structlog
import typer

from streams.cli.console import EXIT_FAILED, say_error, settings_or_usage
from streams.cli.logs import configure_logs
from streams.errors import DedupError
from streams.settings import Settings, speaks_tls

_log = structlog.get_logger(__name__)

_DISCONNECT_S: Final = 4.0
"""Beyond the grace for batches in flight, the time to commit and to disconnect."""

_MALLOPT: Final = {-8: 2, -3: 1 << 18, -1: 1 << 20}
"""glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD (malloc.h), bytes."""


class StageWord(StrEnum):
    """Which half of the service."""

    EMBED = "embed"
    DECIDE = "decide"
    ALL = "all"


def worker(
    stage: Annotated[StageWord, typer.Option(help="Which half of the service this process is.")] = StageWord.ALL,
) -> None:
    """Run a worker: embed turns events into log records, decide turns log records into verdicts.

    It waits for what is not there yet (Kafka, Triton, Milvus) and stops
    on SIGTERM or Ctrl-C. While it runs, its HTTP server answers /livez,
    /readyz, /metrics, /v1/check and /v1/verdicts/ID on the address that
    the settings web_host and web_port name; beyond loopback it needs a
    web_token, and asks for it.

    \b
    design-dedup worker
    design-dedup worker --stage embed
    """
    settings = settings_or_usage()
    configure_logs(settings.log_level, settings.log_format)
    _return_what_is_freed()
    with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
        error = runner.run(_serve(settings, stage.value))
        if error is None:
            return
        if not isinstance(error, DedupError):
            _log.error("the worker failed", exc_info=error)
    reason = str(error) if isinstance(error, DedupError) else f"the worker failed: {error!r}"
    if settings.log_format == "json":
        _log.critical("stopped", error=reason)
    else:
        say_error(Exception(" ".join(reason.split())))
    raise typer.Exit(EXIT_FAILED)


def _return_what_is_freed() -> None:
    """Left alone, glibc raises its thresholds with the first large array and keeps what a burst of pictures freed:
    100 to 230 MB beside the 250 MB that a worker uses (tests/faults/test_soak.py)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries have none
        for option, value in _MALLOPT.items():
            libc.mallopt(option, value)


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop, which saves an eighth of the time; but to close a TLS connection takes it 30 s now and then
    (infra/adr/0009-who-is-refused.md)."""
    import uvloop

    fast: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    tls = speaks_tls(settings.kafka_security_protocol) or settings.web_cert_file is not None
    return asyncio.new_event_loop if tls else fast


async def _serve(settings: Settings, stage: Any) -> BaseException | None:
    """Work until a signal comes or something fails; returns what failed."""
    try:
        service, web = _make(settings, stage)
    except DedupError as error:
        return error
    with _ending(settings.stop_grace_s + _DISCONNECT_S) as ending:
        try:
            address = await web.start()
            _log.info("answering", address=address)
            await _work(service, ending.stop)
        except Exception as error:  # noqa: BLE001 - whatever it is becomes the last line
            return error
        finally:
            ending.begin()
            await _end(service, web)
    return None


def _make(settings: Settings, stage: Any) -> tuple[Any, Any]:
    from streams.kafka.app import Worker
    from streams.transport import web_context
    from streams.web.server import WebOptions, WebServer

    options = WebOptions(
        settings.web_host,
        settings.web_port,
        settings.max_image_bytes,
        2 * settings.max_image_bytes,
        tenant=settings.tenants[0],
        token=settings.web_token.get_secret_value(),
        tls=web_context(settings),
    )
    service = Worker(settings, stage)
    return service, WebServer(service, options)


async def _work(service: Any, stop: asyncio.Event) -> None:
    """Start and run; a signal breaks off a start that still waits for something."""
    starting, stopping = asyncio.create_task(service.start()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await service.run(stop)
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _end(service: Any, web: Any) -> None:
    _log.info("stopping")
    try:
        await service.stop()
    except Exception:  # noqa: BLE001 - the reason to stop is worth more than this one
        _log.warning("the worker did not stop cleanly", exc_info=True)
    await web.stop()
    _log.info("stopped")


class _Ending:
    """How a worker ends. `stop` is set by the first signal; what has not ended `limit_s` after `begin`, or by the
    second signal, is cut off. What is not done is not acknowledged either, so it will be delivered again.
    """

    def __init__(self, limit_s: float) -> None:
        self.stop = asyncio.Event()
        self._limit_s = limit_s
        self._timer = threading.Timer(limit_s, self._cut_off)
        self._timer.daemon = True

    def begin(self) -> None:
        """From now on there is a limit."""
        if self._timer.ident is None:
            self._timer.start()

    def on_signal(self) -> None:
        """SIGTERM or SIGINT."""
        if self.stop.is_set():
            self._cut_off()
        self.stop.set()
        self.begin()

    def _cut_off(self) -> None:
        print(f"design-dedup: did not stop within {self._limit_s:g} s and was cut off", file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)


@contextmanager
def _ending(limit_s: float) -> Iterator[_Ending]:
    ending, loop = _Ending(limit_s), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.on_signal)
    yield ending
