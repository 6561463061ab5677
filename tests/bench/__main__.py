"""`python -m tests.bench`: the whole bench, or `--quick` in about two minutes; `--json FILE` keeps the figures."""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from streams.errors import Fatal
from streams.local import BrokerKind, KafkaMissing, LocalStack, find_java, find_kafka_jars
from tests.bench import deciding, end_to_end
from tests.bench.figures import Figure, as_json, load_now, show
from tests.bench.harness import Bench

FAMILIES: dict[str, Callable[[Bench], Coroutine[Any, Any, list[Figure]]]] = {
    "end-to-end": end_to_end.measure,
    "decide": deciding.measure,
}


def _broker() -> BrokerKind:
    """Apache Kafka where it is found: what production has."""
    try:
        find_java()
        return "kafka" if find_kafka_jars(fetch=False) else "tansu"
    except KafkaMissing:
        return "tansu"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: about two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--only", choices=FAMILIES, help="one part")
    parser.add_argument("--broker", choices=("kafka", "tansu"), help="default: Apache Kafka where it is found")
    parser.add_argument(
        "--triton-instances", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core"
    )
    return parser.parse_args()


def main() -> None:
    """Start a stack, measure, print, and leave nothing running."""
    options, console, began, before = (
        _arguments(),
        Console(width=None if os.isatty(1) else 150),
        time.monotonic(),
        load_now(),
    )
    broker = options.broker or _broker()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="dedup-bench-") as folder:
        Path(folder, "stack").mkdir()
        with LocalStack(Path(folder, "stack"), broker=broker, triton_instances=options.triton_instances) as stack:
            bench = Bench(stack, Path(folder), options.quick, console)
            for name, measure in FAMILIES.items():
                if options.only in (None, name):
                    figures += asyncio.run(measure(bench))
    figures.sort(key=lambda figure: figure.family == "memory")
    show(console, figures)
    context = {
        "broker": broker, "triton_instances": options.triton_instances, "quick": options.quick,
        "load": [before, load_now()], "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    console.print(f"\nBroker {broker}, {options.triton_instances} Triton instances of one thread. "
                  f"{before} before, {load_now()} after: on a busy machine trust ratios and CPU times. "
                  f"{context['seconds']} s.")  # fmt: skip
    if options.json:
        options.json.write_text(as_json(figures, context))


if __name__ == "__main__":
    try:
        main()
    except Fatal as error:
        raise SystemExit(f"bench: {error}") from None
