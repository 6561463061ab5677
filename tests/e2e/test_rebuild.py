"""Milvus and the checkpoint are views: lost, they are made again from log and verdicts."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streams.local import LocalStack
from tests.pictures import drawn, photographed
from tests.service import Service, design, ids, item

pytestmark = pytest.mark.stack


async def test_rebuild_restores_what_was_lost(prefix: str, tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack") as stack:
        async with Service(stack, prefix, tmp_path, seal_rows=16) as service:
            first = service.start()
            await service.update(ids("item", [photographed(n) for n in range(30)], item))
            await service.until_settled()
            designs = ids("design", [photographed(n, 60) if n % 2 else drawn(300 + n) for n in range(40)], design)
            await service.publish(designs)
            await service.until_settled()
            assert first.stop() == 0
            before = {r.key: r.value for r in await service.read(service.topics.verdicts.name)}

            stack.milvus.stop()
            shutil.rmtree(stack.data_dir / "milvus")
            shutil.rmtree(tmp_path / "data")
            stack.restart_milvus()
            command = [sys.executable, "-m", "streams.cli.main", "rebuild"]
            done = await asyncio.to_thread(
                subprocess.run, command, env=service.full_env(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr

            service.start()
            await service.publish(designs)
            await service.publish([("copy of an old one", design(photographed(7, 50)))])
            await service.until_settled()
            again = await service.read(service.topics.verdicts.name)
            assert {r.key: r.value for r in again if r.key in before} == before
            assert (await service.verdicts())["copy of an old one"].neighbours[0].id in ("item00007", "design00007")
            folded = await service.assert_as_promised()
            assert folded.counts["repeated"] == 40
