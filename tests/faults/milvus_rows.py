"""What lies in Milvus against what the oracle says exists."""

from dataclasses import dataclass
from typing import Any

import msgspec

from streams.decide.store import MilvusStore
from streams.decide.things import place_of, position_of, row_key
from tests import oracle
from tests.service import Service


@dataclass(frozen=True, slots=True)
class Stored:
    """Row keys of one shard. missing: live, sealed and not in Milvus; garbage: in Milvus and not live."""

    live: frozenset[int]
    missing: frozenset[int]
    garbage: frozenset[int]


async def stored(service: Service, shard: int, sealed: int) -> Stored:
    """sealed: rows below this position should be in Milvus (`dedup_sealed_position`)."""
    records = await service.log(shard)
    folded = oracle.fold(((record.offset, record.value) for record in records), shard)
    log: list[dict[str, Any]] = [msgspec.msgpack.decode(record.value) for record in records]
    live = frozenset(
        row_key(shard, place, picture) for key, place in folded.live.items() for picture in range(folded.pictures[key])
    )
    store = MilvusStore(service.settings.milvus_uri, "", service.settings.milvus_timeout_s, log[0]["log_id"])
    try:
        encoders = {record["encoder"] for record in log if record.get("pictures")}
        held = frozenset(
            int(key)
            for encoder in encoders
            for keys, _ in store.scan(encoder, row_key(shard, 0), row_key(shard, records[-1].offset + 1))
            for key in keys
        )
    finally:
        store.close()
    due = frozenset(key for key in live if position_of(place_of(key)) < sealed)
    return Stored(live, due - held, held - live)
