"""`design-dedup stack`: broker, Triton and Milvus Lite on this machine, for as long as the command runs."""

import shlex
import shutil
import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from streams.cli.console import line, say, settings_or_usage
from streams.errors import Fatal
from streams.settings import ENV_PREFIX

app: Final = typer.Typer(help="The embedded stack: all servers on this machine.", no_args_is_help=True)

_POLL_S: Final = 0.5


class BrokerWord(StrEnum):
    """Which broker."""

    TANSU = "tansu"
    KAFKA = "kafka"


@app.callback()
def _stack() -> None:
    """The embedded stack: all servers on this machine."""


@app.command()
def up(
    broker: Annotated[
        BrokerWord, typer.Option(help="tansu keeps everything in memory; kafka keeps it on disk and needs Java 17.")
    ] = BrokerWord.TANSU,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the servers keep their data.  [default: DATA_DIR/stack]")
    ] = None,
) -> None:
    """Start a broker, Triton and Milvus Lite on free ports of 127.0.0.1; Ctrl-C ends them.

    Prints how to connect, as lines for another shell.

    \b
    design-dedup stack up
    design-dedup stack up --broker kafka --data /var/tmp/dedup
    """
    from streams.local import LocalStack

    settings = settings_or_usage()
    stack = LocalStack(
        data or settings.data_dir / "stack",
        broker=broker.value,
        triton_venv=settings.triton_venv,
        model_repository=settings.model_repository,
        triton_instances=settings.triton_instances,
        triton_threads=settings.triton_threads,
    )
    ended = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: _interrupt(ended)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        say("starting broker, Triton and Milvus Lite ...")
        stack.start(say)
        # The checkpoint belongs to the log, and tansu forgets its topics.
        workers = stack.data_dir / f"worker-{broker.value}"
        if broker is BrokerWord.TANSU:
            shutil.rmtree(workers, ignore_errors=True)
        _print_settings(stack.endpoints.kafka, stack.endpoints.triton_grpc, stack.endpoints.milvus, workers)
        say("the stack is up; Ctrl-C ends it")
        while not ended.wait(_POLL_S):
            if dead := stack.poll():
                raise Fatal(f"{', '.join(dead)} ended by itself; its log is in {stack.data_dir / 'logs'}")
    except KeyboardInterrupt:
        pass
    finally:
        stack.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)
    say("the stack is down")


def _interrupt(ended: threading.Event) -> None:
    """The first signal also breaks off a start that is under way."""
    if not ended.is_set():
        ended.set()
        raise KeyboardInterrupt


def _print_settings(kafka: str, triton: str, milvus: str, data_dir: Path) -> None:
    values = {"KAFKA_BOOTSTRAP": kafka, "TRITON_URL": triton, "MILVUS_URI": milvus, "DATA_DIR": str(data_dir)}
    for name, value in values.items():
        line(f"export {ENV_PREFIX}{name}={shlex.quote(value)}")
