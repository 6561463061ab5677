"""Record batches byte by byte, as no client of good will makes them, and a way to send them."""

import struct
import time
from collections.abc import Sequence
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

CODECS: Final = (0, 1, 2, 3, 4)
"""None, gzip, snappy, lz4, zstd."""
_ATTRIBUTES_AT: Final = 21
_CRC_AT: Final = 17

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def batch(records: Sequence[Record], codec: int = 0, first: int = 0, at_ms: int | None = None) -> bytes:
    """A good one: (key, value, headers) each, of now (a broker forgets what is old)."""
    at_ms = int(1000 * time.time()) if at_ms is None else at_ms
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 30)
    for number, (key, value, headers) in enumerate(records):
        assert builder.append(number, at_ms, key, value, headers) is not None
    return struct.pack(">q", first) + bytes(builder.build())[8:]


def checked(data: bytes) -> bytes:
    """With the checksum that its bytes have now."""
    crc = calc_crc32c(data[_ATTRIBUTES_AT:])
    return data[:_CRC_AT] + struct.pack(">I", crc) + data[_ATTRIBUTES_AT:]


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    """With other bytes of the same length in one place."""
    assert data.count(old) == 1
    assert len(old) == len(new)
    return checked(data.replace(old, new))


async def send(bootstrap: str, topic: str, partition: int, data: bytes) -> int:
    """Append a batch as it is; the broker's error code."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.fetch_all_metadata()
        node = client.get_random_node()
        request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, data)])])
        response = await client.send(node, request)
        ((_, ((_, code, *_),)),) = response.topics
        return int(code)
    finally:
        await client.close()
