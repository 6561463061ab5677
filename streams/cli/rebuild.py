"""`design-dedup rebuild`: checkpoint and Milvus again, from the log and the verdicts. Nothing is published."""

import asyncio
import sqlite3
import tempfile
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, Final

from streams.cli.cluster import Cluster
from streams.cli.console import line, progress, run, say, settings_or_usage
from streams.errors import Fatal
from streams.settings import Settings
from streams.transport import milvus_options, worker_client

_POLL_S: Final = 0.2
_SEAL_ROWS: Final = 256
"""Sealed often, so that nearly all rows are in Milvus when this ends; the last few are in the checkpoint."""
_STEP: Final = 20_000
"""Positions whose verdicts are in memory at a time."""


def rebuild() -> None:
    """Make the state and the rows in Milvus again, from the log and the verdicts.

    For a lost or damaged checkpoint, a lost Milvus, or a message that
    names this command. Verdicts stay what they are and nothing is
    published. Stop the workers that decide first, and run it on their
    machine: the checkpoint lies in the folder that the setting data_dir
    names.

    \b
    design-dedup rebuild
    """
    for text in run(_rebuild(settings_or_usage())):
        line(text)


async def _rebuild(settings: Settings) -> list[str]:
    done = []
    async with Cluster(settings) as cluster:
        await cluster.create_topics()
        await _refuse_beside_an_owner(cluster)
        ends = await cluster.decided()
        await asyncio.to_thread(_delete_checkpoints, settings.data_dir)
        for shard, end in enumerate(ends):
            rebuilt = await _rebuild_shard(cluster, shard, end)
            done.append(rebuilt or f"shard {shard}: its log is empty, nothing to do")
    return done


async def _refuse_beside_an_owner(cluster: Cluster) -> None:
    settings = cluster.settings
    for file in settings.data_dir.glob("shard-*.sqlite"):
        if await asyncio.to_thread(_is_held, file):
            raise Fatal(f"a worker holds {file} open; stop it and run this again")
    owners = await cluster.owners()
    if any(owners):
        raise Fatal(
            f"workers decide now (group {cluster.decide_group}, at {', '.join(sorted(set(owners)))}); stop them, wait"
            f" {settings.session_timeout_s:g} s, and run this again"
        )
    # The embedded broker does not say who is still there, but all its workers are on this machine.
    if bool(owners) and await asyncio.to_thread(_answers, settings):
        raise Fatal(f"a worker answers at {settings.worker_url}; stop it and run this again")


def _is_held(file: Path) -> bool:
    """Whether another process has a checkpoint open."""
    database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
    try:
        # In this mode the lock is one that no other open connection lets through.
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    except sqlite3.DatabaseError:
        return False  # damaged: a reason to be here
    finally:
        database.close()
    return False


def _answers(settings: Settings) -> bool:
    import httpx

    try:
        url = f"{settings.worker_url.rstrip('/')}/livez"
        return httpx.get(url, timeout=2, **worker_client(settings)).status_code == httpx.codes.OK
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _delete_checkpoints(folder: Path) -> None:
    for file in sorted(folder.glob("shard-*.sqlite*")):
        file.unlink(missing_ok=True)
        say(f"deleted {file}")


async def _rebuild_shard(cluster: Cluster, shard: int, end: int) -> str:
    from streams.cli.said import SaidLedger, read_said
    from streams.decide.stage import DecideOptions, Shard
    from streams.decide.store import MilvusStore
    from streams.kafka.ports import KafkaLog

    settings, topics = cluster.settings, cluster.topics
    log = KafkaLog(settings.kafka_bootstrap, topics, shard, cluster.security)
    first = await log.first()
    if first is None:
        return ""
    log_id = first.record.log_id

    def store(name: str) -> MilvusStore:
        token, milvus = settings.milvus_token.get_secret_value(), milvus_options(settings)
        return MilvusStore(settings.milvus_uri, token, settings.milvus_timeout_s, name, options=milvus)

    await asyncio.to_thread(_forget, store(log_id))
    options = DecideOptions(settings.data_dir, settings.index, min(_SEAL_ROWS, settings.seal_rows))
    async with AsyncExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="design-dedup-rebuild-")))
        said = held.enter_context(closing(await read_said(cluster, shard, folder / "said.sqlite")))
        ledger = SaidLedger(said)
        owner = Shard(shard, options, store, ledger, log)
        held.push_async_callback(owner.close)
        bar = held.enter_context(progress(f"replaying shard {shard}", end))
        watching = asyncio.create_task(_watch(owner, bar))
        held.callback(watching.cancel)
        for upto in (*range(_STEP, end, _STEP), end):
            ledger.go_to(None if upto == end else upto)
            await owner.take_over(log_id, upto)
        bar(owner.next)
        return f"shard {shard}: log {log_id}, rebuilt up to position {owner.next}"


async def _watch(owner: Any, bar: Any) -> None:
    while True:
        await asyncio.sleep(_POLL_S)
        if owner.is_open:
            bar(owner.next)


def _forget(store: Any) -> None:
    store.drop()
    store.close()
