"""The README as a reader follows it, on the real stack: the tour, then a generator and a listing tool."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from streams.local import LocalStack
from tests.docs.pages import files
from tests.docs.tour import steps, take
from tests.pictures import drawn, photographed
from tests.service import Service, item

pytestmark = pytest.mark.stack

_TOLERANCE = 0.001
_FURNITURE = re.compile(r"[\s━─┃│┏┓┗┛┡┩┳┻┠┨┬┴┼└┘├┤┌┐╇]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_SIMILARITY = re.compile(r"\b[01]\.\d{4}\b")
_NAME = re.compile(r"\S*design-\d+\S*")
_ORDERED = re.compile(r"position \d+|^ *\d+ ", re.MULTILINE)


def likeness(answer: str) -> tuple[list[str], list[float]]:
    """What must be equal in two runs, and the numbers that may differ by a hair from processor to processor.

    In which order designs of several partitions are judged is chance. So lines count without their positions and in any
    order, and what an accepted design came nearest to does not count, nor do neighbours below the nearest.
    """
    text, rows = _TIME.sub("TIME", answer), 0
    if "nearest" in answer:
        text = _ORDERED.sub("N ", text)
    lines = []
    for line in text.splitlines():
        rows += line.startswith("│")
        if " accept " in line and (name := _NAME.search(line)):
            lines.append(f"accept {name[0]}")
            continue
        if not (line.startswith("│") and rows > 1):
            lines.append(re.sub(r"in shard|position +\d+", "", _FURNITURE.sub(" ", line).strip()))
    lines.sort()
    numbers = [float(number) for line in lines for number in _SIMILARITY.findall(line)]
    return [_SIMILARITY.sub("S", line) for line in lines], numbers


def start_tool(folder: Path, env: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "listing.py", "shop.db"], cwd=folder, env=env, stdout=log)


async def test_the_tour_prints_what_the_readme_says(full_stack: LocalStack, prefix: str, tmp_path: Path) -> None:
    again = "; after a wanted change: python -m tests.docs.tour"
    for said, printed in zip(steps(), await take(full_stack, prefix, tmp_path), strict=True):
        (words, numbers), (words_now, numbers_now) = likeness(said.answer), likeness(printed.answer)
        assert words_now == words, f"{said.command}{again}"
        assert numbers_now == pytest.approx(numbers, abs=_TOLERANCE), f"{said.command}{again}"


async def test_a_generator_and_a_listing_tool(full_stack: LocalStack, tmp_path: Path) -> None:
    """The only test whose topics have no prefix: the two files know none."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    for name, picture in {"new": drawn(1), "twin": drawn(1, 60), "copy": photographed(2), "other": drawn(3)}.items():
        path = tmp_path / "designs" / "shirts" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    async with Service(full_stack, "", tmp_path, group="readme") as service:
        env = {**os.environ, **service.env}

        def generate() -> None:
            subprocess.run([sys.executable, "generator.py", "designs"], cwd=tmp_path, env=env, check=True, timeout=60)

        async def said() -> list[tuple[str, int]]:
            await service.until_settled()
            return listings(tmp_path / "shop.db")

        service.start()
        await service.update([("item", item(photographed(2)))])
        await service.until_settled()
        with (tmp_path / "listing.log").open("wb") as log:
            tool = start_tool(tmp_path, env, log)
            try:
                await asyncio.to_thread(generate)

                async def four() -> bool:
                    return len(await said()) == 4

                await service.until(four, "the listing tool has four verdicts")
                before = await said()
                assert dict(before)["copy"] == 0
                assert dict(before)["other"] == 1
                assert sorted([dict(before)["new"], dict(before)["twin"]]) == [0, 1]

                await asyncio.to_thread(generate)

                async def twice() -> bool:
                    return len(await service.read(service.topics.verdicts.name)) == 8

                await service.until(twice, "every verdict was said twice")
                tool.kill()
                tool.wait()
                tool = start_tool(tmp_path, env, log)
                (tmp_path / "designs" / "shirts" / "last.jpg").write_bytes(drawn(5))
                await asyncio.to_thread(generate)

                async def five() -> bool:
                    return len(await said()) == 5

                await service.until(five, "the listing tool goes on after it was killed")
                assert [row for row in await said() if row[0] != "last"] == before
                await service.assert_as_promised()
            finally:
                tool.kill()
                tool.wait()
        assert len((tmp_path / "listing.log").read_text().splitlines()) == 5


def listings(database: Path) -> list[tuple[str, int]]:
    """Design and whether it was listed, in the order of the ids."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as shop:
        try:
            return shop.execute("SELECT design_id, listed FROM done ORDER BY design_id").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []
