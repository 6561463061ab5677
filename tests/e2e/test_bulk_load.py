"""A catalogue of a thousand real photographs, loaded by the command, broken off and loaded again."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from streams.events import decode_record
from streams.local import REPOSITORY, LocalStack
from tests.service import Service, design

PHOTOS = REPOSITORY.parent / "shared" / "data" / "hm" / "images"
COUNT = 1000
pytestmark = [
    pytest.mark.stack,
    pytest.mark.realdata,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}"),
]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """The first of them."""
    return sorted(PHOTOS.glob("*.jpg"))[:COUNT]


def listing(path: Path, photos: list[Path]) -> Path:
    """A JSONL file that names them."""
    rows = ({"id": photo.stem, "images": [str(photo)]} for photo in photos)
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    return path


async def test_a_load_that_broke_off_is_completed_by_loading_again(
    full_stack: LocalStack, prefix: str, tmp_path: Path, photos: list[Path]
) -> None:
    # Whoever reads a pipe that nobody writes waits: so it breaks off half-way, however fast the machine is.
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    async with Service(full_stack, prefix, tmp_path) as service:
        command = [sys.executable, "-m", "streams.cli.main", "catalog", "load"]
        worker = service.start()
        half = listing(tmp_path / "half.jsonl", [*photos[: COUNT // 2], pipe])
        loading = await asyncio.create_subprocess_exec(
            *command, str(half), env=service.full_env(), stderr=subprocess.DEVNULL
        )

        async def embedded() -> set[str]:
            records = [decode_record(record.value) for record in await service.log()]
            return {record.id for record in records if record.kind == "upsert"}

        try:
            await service.until(embedded, "some are embedded")
        finally:
            loading.kill()
        assert await loading.wait() == -9
        worker.kill()
        assert 0 < len(await embedded()) < COUNT

        service.start()
        command += [str(listing(tmp_path / "all.jsonl", photos)), "--wait"]
        done = await asyncio.to_thread(
            subprocess.run,
            command, env=service.full_env(), capture_output=True, text=True, check=False, timeout=800,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"decided {COUNT} of {COUNT}, 0 dead letters" in done.stdout
        assert f"sending to {service.topics.catalog.name}" in done.stderr

        # Everything is there, once, and each photograph finds itself.
        some = photos[:: COUNT // 50]
        await service.publish([(path.stem, design(path.read_bytes())) for path in some])
        await service.until_settled()
        nearest = {name: verdict.neighbours[0].id for name, verdict in (await service.verdicts()).items()}
        assert nearest == {path.stem: path.stem for path in some}
        folded = await service.assert_as_promised()
        assert len(folded.live) == COUNT
