"""The tour of the README, run: every `console` block on a real stack and a real worker.

To write its answers again, after a change of the encoder, the policy or what commands print:
`python -m tests.docs.tour`.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from streams.local import LocalStack, PortLease
from tests.docs.pages import README, blocks, files
from tests.service import Service

_BAR: Final = re.compile(r"^.*━+.* \d+/\d+ .*$\n?", re.MULTILINE)
_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the tour and what the README says it prints."""

    command: str
    answer: str


def steps() -> list[Step]:
    """The tour's commands, in order."""
    return [step for block in blocks() if block.language == "console" for step in _steps_of(block.text)]


def _steps_of(text: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, answer = part.partition("\n")
        yield Step(command, answer.strip("\n"))


async def take(stack: LocalStack, prefix: str, folder: Path) -> list[Step]:
    """Walk through the tour; each step with what was really printed, progress bars left out."""
    for name, text in files().items():
        (folder / name).write_text(text)
    ports = PortLease()
    try:
        port = ports.take()
        service = Service(
            stack, prefix, folder, web_port=port, worker_url=f"http://127.0.0.1:{port}", group=f"{prefix}tour"
        )
        async with service:
            worker = service.start()
            await service.until(_is_ready(port), "the worker is ready")
            taken = [Step(step.command, await _run(step.command, service.env, folder)) for step in steps()]
            assert worker.stop() == 0
            return [Step(step.command, step.answer.replace(prefix, "")) for step in taken]
    finally:
        ports.close()


def _is_ready(port: int) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return ready


async def _run(command: str, env: Mapping[str, str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", command], cwd=folder, text=True, timeout=_TIMEOUT_S, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **env, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
    )  # fmt: skip
    text = "".join(
        line for line in done.stdout.splitlines(keepends=True) if "┏" in line or "┡" in line or not _BAR.match(line)
    )
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def write(taken: list[Step]) -> None:
    """Put the answers into the README."""
    left = iter(taken)

    def answered(block: re.Match[str]) -> str:
        lines = [
            f"$ {step.command}\n{step.answer}".rstrip("\n") for _, step in zip(_steps_of(block[1]), left, strict=False)
        ]
        return "```console\n" + "\n".join(lines) + "\n```"

    README.write_text(re.sub(r"^```console\n(.*?)^```$", answered, README.read_text(), flags=re.M | re.S))


async def _main() -> None:
    with tempfile.TemporaryDirectory() as folder, LocalStack(Path(folder, "stack")) as stack:
        write(await take(stack, "", Path(folder)))


if __name__ == "__main__":
    asyncio.run(_main())
