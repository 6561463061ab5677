"""What lies in Milvus against what the oracle says exists."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from streams.decide.checkpoint import Checkpoint
from streams.decide.store import MilvusStore
from streams.decide.things import ROWS, place_of, position_of, row_key
from streams.transport import milvus_options
from tests import oracle

if TYPE_CHECKING:
    from tests.service import Service


@dataclass(frozen=True, slots=True)
class Stored:
    """Row keys of one shard. missing: live, sealed and not in Milvus. garbage: in Milvus and not live; unknown: those
    that no checkpoint will collect. altered: in Milvus with another vector than the log's."""

    missing: frozenset[int] = frozenset()
    garbage: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()
    altered: frozenset[int] = frozenset()


async def stored(service: "Service", shard: int, records: Sequence[Any], folded: oracle.Folded) -> Stored:
    """To be asked when the log, `records`, has come to rest."""
    if not records:
        return Stored()
    sealed, known = _checkpoints(service, shard)
    log: dict[int, dict[str, Any]] = {record.offset: msgspec.msgpack.decode(record.value) for record in records}
    vectors, live = _vectors(log, folded, shard), _live_keys(folded, shard)
    settings = service.settings
    token, options = settings.milvus_token.get_secret_value(), milvus_options(settings)
    store = MilvusStore(settings.milvus_uri, token, settings.milvus_timeout_s, log[min(log)]["log_id"], options)
    held, altered = set[int](), set[int]()
    try:
        for encoder in sorted({record["encoder"] for record in log.values() if record.get("pictures")}):
            for keys, rows in store.scan(encoder, row_key(shard, 0), row_key(shard, records[-1].offset + 1)):
                for key, row in zip(keys.tolist(), rows, strict=True):
                    held.add(key)
                    if key in vectors and row.astype("<i2").tobytes() not in vectors[key]:
                        altered.add(key)
    finally:
        store.close()
    due = {key for key in live if position_of(place_of(key)) < sealed}
    garbage = held - live
    return Stored(*map(frozenset, (due - held, garbage, garbage - known, altered)))


def _live_keys(folded: oracle.Folded, shard: int) -> set[int]:
    return {
        row_key(shard, place, number) for key, place in folded.live.items() for number in range(folded.vectors[key])
    }


def _checkpoints(service: "Service", shard: int) -> tuple[int, set[int]]:
    """Rows below this position should be in Milvus: what the checkpoint says that is furthest, whoever owns it; and the
    rows that any of them will collect."""
    sealed, garbage = 0, set[int]()
    for path in service.folder.rglob(f"shard-{shard}.sqlite"):
        checkpoint = Checkpoint(path)
        sealed = max(sealed, checkpoint.head.sealed)
        garbage |= {key for key, _ in checkpoint.garbage(checkpoint.head.next * ROWS)}
        checkpoint.close()
    return sealed, garbage


def _vectors(log: dict[int, dict[str, Any]], folded: oracle.Folded, shard: int) -> dict[int, list[bytes]]:
    """What the rows of each record, and of what exists, may hold."""
    vectors = defaultdict[int, list[bytes]](list)
    for position, record in log.items():
        for n, vector in enumerate(_rows(record.get("pictures", ()))):
            vectors[row_key(shard, position, n)].append(vector)
    for key, place in folded.live.items():
        if place != position_of(place):  # what another record let exist again has the pictures of its own one
            own = [_rows(r["pictures"]) for r in log.values() if r.get("pictures") and oracle._key(r) == key]
            for n in range(folded.vectors[key]):
                vectors[row_key(shard, place, n)] = [rows[n] for rows in own if n < len(rows)]
    return vectors


def _rows(pictures: Sequence[Any]) -> list[bytes]:
    return [vector for picture in pictures for vector in oracle.vectors(picture)]
