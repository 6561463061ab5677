"""Batches of strangers: what aiokafka reads is read alike, and what would end its reader becomes `Unreadable`."""

import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.memory_records import MemoryRecords

from streams.events import Unreadable
from streams.kafka import batches
from streams.kafka.batches import Batches
from tests.hostile_batches import CODECS, Record, batch, checked, patched

PLAIN: Sequence[Record] = [
    (b"a", b"1" * 100, []),
    (None, b"", [("ce_id", b"7"), ("empty", None)]),
    (b"c", None, [("caf\u00e9", b"\xff")]),
    (b"", b"\0" * 5000, []),
]


def read(data: bytes, reader: Any = Batches, start: int = 0) -> list[Any]:
    return list(PartitionRecords(TopicPartition("t", 0), reader(data), None, start, None, None, True, 0))


@pytest.mark.parametrize("codec", CODECS)
def test_good_batches_are_read_as_aiokafka_reads_them(codec: int) -> None:
    data = batch(PLAIN, codec, first=5) + batch(PLAIN[::-1], codec, first=9)
    assert read(data, start=6) == read(data, MemoryRecords, 6)
    assert [record.offset for record in read(data, start=6)] == list(range(6, 13))


@pytest.mark.parametrize("codec", CODECS)
def test_a_key_of_a_header_may_be_any_bytes(codec: int) -> None:
    records: list[Record] = [*PLAIN, (b"poison", b"value", [("HHHH", b"x")]), (b"good", b"after", [])]
    data = patched(batch(records, at_ms=1_700_000_000_000), b"HHHH", b"\xff\xfe\xff\xfe")
    if codec:
        data = batches._HEADER.pack(*batches._HEADER.unpack_from(data)) + data[batches._HEADER.size :]
        data = checked(recompressed(data, codec))
    with pytest.raises(UnicodeDecodeError):  # when this fails, `_without_headers` is not needed any more
        read(data, MemoryRecords)
    found = read(data)
    assert [(record.key, record.value) for record in found] == [(key, value) for key, value, _ in records]
    assert [record.offset for record in found] == list(range(len(records)))
    assert {record.timestamp for record in found} == {1_700_000_000_000}


def recompressed(plain: bytes, codec: int) -> bytes:
    from aiokafka import codec as codecs

    encode = {1: codecs.gzip_encode, 2: codecs.snappy_encode, 3: codecs.lz4_encode, 4: codecs.zstd_encode}[codec]
    fields = list(batches._HEADER.unpack_from(plain))
    body: bytes = encode(plain[batches._HEADER.size :])
    fields[1], fields[5] = batches._HEADER.size - 12 + len(body), codec
    return batches._HEADER.pack(*fields) + body


@pytest.mark.parametrize("codec", CODECS[1:])
def test_what_becomes_too_large_is_not_unpacked(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 1 << 20)
    data = batch([(b"bomb", bytes(8 << 20), []), (b"good", b"beside it", [])], codec, first=3)
    if 4 * len(data) < 8 << 20:
        values = [record.value for record in read(data)]
        assert [type(value) for value in values] == [Unreadable, Unreadable]
        assert b"becomes larger than" in values[0]
    whole = batch([(b"large", bytes(900_000), [])], codec)
    assert [len(record.value) for record in read(whole)] == [900_000]


def test_an_answer_of_many_large_batches_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 1 << 20)
    made = [batch([(b"k", bytes(400_000), [])], 4, first=n) for n in range(10)]
    got: list[int] = []
    while len(got) < len(made):
        part = [record.offset for record in read(b"".join(made[len(got) :]), start=len(got))]
        assert 1 <= len(part) <= 3, "what is left is fetched again"
        got += part
    assert got == list(range(10))


BROKEN = {
    "no such compression": lambda: checked(recompressed_as(batch(PLAIN, 4), 7)),
    "gzip of nothing": lambda: checked(with_body(batch(PLAIN, 1), b"\x1f\x8b\x08\0")),
    "lz4 of noise": lambda: checked(with_body(batch(PLAIN, 3), b"\x04\x22\x4d\x18noise")),
    "zstd of noise": lambda: checked(with_body(batch(PLAIN, 4), b"\x28\xb5\x2f\xfdnoise")),
    "snappy of noise": lambda: checked(with_body(batch(PLAIN, 2), b"\x82SNAPPY\0\0\0\0\1\0\0\0\1\xff\xff\xff\xff")),
    "records of noise": lambda: checked(with_body(batch(PLAIN), b"\x7f" * 40)),
    "too few records": lambda: checked(with_body(batch(PLAIN), batch(PLAIN[:2])[batches._HEADER.size :])),
    "nothing": lambda: checked(with_body(batch(PLAIN), b"")),
}


def recompressed_as(data: bytes, codec: int) -> bytes:
    fields = list(batches._HEADER.unpack_from(data))
    fields[5] = codec
    return batches._HEADER.pack(*fields) + data[batches._HEADER.size :]


def with_body(data: bytes, body: bytes) -> bytes:
    fields = list(batches._HEADER.unpack_from(data))
    fields[1] = batches._HEADER.size - 12 + len(body)
    return batches._HEADER.pack(*fields) + body


@pytest.mark.parametrize("name", BROKEN)
def test_a_batch_that_cannot_be_read_is_unreadable_at_each_offset(name: str) -> None:
    before, after = batch(PLAIN, first=0), batch(PLAIN, first=8)
    broken = moved(BROKEN[name](), 4)
    found = read(before + broken + after)
    assert [record.offset for record in found] == list(range(12))
    assert {type(record.value) for record in found[4:8]} == {Unreadable}
    assert not [record for record in found[:4] + found[8:] if isinstance(record.value, Unreadable)]


def moved(data: bytes, first: int) -> bytes:
    return struct.pack(">q", first) + data[8:]


@pytest.mark.parametrize("codec", CODECS)
def test_any_damage_under_a_right_checksum_is_borne(codec: int) -> None:
    """Within the records; the broker writes the header's offsets."""
    rng, whole = random.Random(codec), batch(PLAIN, codec)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(batches._HEADER.size, len(data))] = rng.randrange(256)
        found = read(checked(bytes(data)))
        assert len(found) <= len(PLAIN)
        assert all(type(record.value) in (bytes, Unreadable, type(None)) for record in found)


def test_half_a_batch_is_none() -> None:
    data = batch(PLAIN)
    for end in (0, 11, 12, 40, 60, len(data) - 1):
        half = Batches(data[:end])
        assert not half.has_next()
        assert half.size_in_bytes() == end
