"""Records out of what a fetch brought, whatever a stranger has put into a batch. It stands in the place of aiokafka's
`MemoryRecords`, whose answer to the same would end every worker, again and again: a header's key that is no UTF-8 or a
broken record is an error, and a batch is decompressed however large it becomes (infra/adr/0016-hostile-batches.md).

Not for what the records mean. Of transactions only the markers are passed over, as READ_UNCOMMITTED has it.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final, NamedTuple

import cramjam
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint

from streams.events import Unreadable

_ENVELOPE: Final = struct.Struct(">qi")  # base offset, length
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_MAGIC_AT: Final = struct.calcsize(">qii")
_COMPRESSION: Final = 0x07
_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_LOG_APPEND_TIME: Final = 0x08
_XERIAL: Final = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES: Final = 16

_BROKEN: Final = (KafkaError, ValueError, IndexError, OverflowError, struct.error, EOFError, OSError, zlib.error)

MOST_BYTES: Final = 64 << 20
"""What a batch may become when it is decompressed, and all those of one answer before the rest is fetched again. Four
times its size on the wire is allowed in any case."""


class _Record(NamedTuple):
    """With the names of aiokafka's."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


class Batches:
    """The batches of one answer for one partition."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._room = self.most = max(MOST_BYTES, 4 * len(data))

    def size_in_bytes(self) -> int:
        """Of the whole answer; the last batch may have been cut off."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether a whole batch is left, and room for what it may become: else it is fetched again."""
        return self._room > 0 and self._end() is not None

    def next_batch(self) -> Any:
        """A batch as aiokafka's PartitionRecords reads it."""
        end = self._end()
        assert end is not None  # noqa: S101 - has_next was asked
        raw, self._at = self._data[self._at : end], end
        if raw[_MAGIC_AT] < 2:
            return LegacyRecordBatch(raw, raw[_MAGIC_AT])
        return _Batch(raw, self)

    def spend(self, size_bytes: int) -> None:
        """So much was decompressed."""
        self._room -= size_bytes

    def _end(self) -> int | None:
        left = len(self._data) - self._at
        if left < _HEADER.size:
            return None
        end = self._at + _ENVELOPE.size + int(_ENVELOPE.unpack_from(self._data, self._at)[1])
        return end if self._at + _HEADER.size <= end <= len(self._data) else None


class _Batch:
    """One batch of message format 2 (Kafka 0.11 and later)."""

    def __init__(self, raw: memoryview, of: Batches) -> None:
        self._raw, self._of = raw, of
        fields = _HEADER.unpack_from(raw)
        self.base_offset, self._attributes, last_delta = fields[0], fields[5], fields[6]
        self._first_timestamp, self._max_timestamp, self.producer_id = fields[7], fields[8], fields[9]
        self._count = fields[12]
        self.next_offset = self.base_offset + last_delta + 1
        self.is_transactional = bool(self._attributes & 0x10)
        self.is_control_batch = bool(self._attributes & 0x20)

    def validate_crc(self) -> bool:
        """Whether it came as it was sent."""
        return bool(DefaultRecordBatch(self._raw).validate_crc())

    def __iter__(self) -> Iterator[Any]:
        """Its records. Of one that cannot be read, each offset with an `Unreadable` value."""
        try:
            plain = self._plain()
            try:
                return iter(list(DefaultRecordBatch(plain)))
            except UnicodeDecodeError:
                return iter(list(self._without_headers(plain)))
        except _Unreadable as error:
            reason = str(error)
        except _BROKEN as error:
            reason = f"the batch cannot be read: {type(error).__name__}"
        value = Unreadable(reason.encode())
        return (
            _Record(offset, self._max_timestamp, 0, None, value, [])
            for offset in range(self.base_offset, self.next_offset)
        )

    def _plain(self) -> bytes | memoryview:
        """The same batch without compression."""
        codec = self._attributes & _COMPRESSION
        if codec == _NONE:
            return self._raw
        records = _decompressed(codec, bytes(self._raw[_HEADER.size :]), self._of.most)
        self._of.spend(len(records))
        fields = list(_HEADER.unpack_from(self._raw))
        fields[1] = _HEADER.size - _ENVELOPE.size + len(records)
        fields[5] &= ~_COMPRESSION
        return _HEADER.pack(*fields) + records

    def _without_headers(self, plain: bytes | memoryview) -> Iterator[_Record]:
        at = _HEADER.size
        data = bytearray(plain)
        timestamp_type = int(bool(self._attributes & _LOG_APPEND_TIME))
        for _ in range(self._count):
            length, at = decode_varint(data, at)
            end = at + length
            delta_ms, at = decode_varint(data, at + 1)  # after the attributes, of which there are none
            delta, at = decode_varint(data, at)
            key, at = _bytes(data, at, end)
            value, at = _bytes(data, at, end)
            timestamp = self._max_timestamp if timestamp_type else self._first_timestamp + delta_ms
            yield _Record(self.base_offset + delta, timestamp, timestamp_type, key, value, [])
            at = end


class _Unreadable(Exception):
    """Says why, to whoever reads dead letters."""


def _bytes(data: bytearray, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    if at + size > end:
        raise ValueError("a record that ends before its contents")
    return bytes(data[at : at + size]), at + size


def _decompressed(codec: int, data: bytes, most: int) -> bytes:
    """At most `most` bytes."""
    try:
        if codec == _GZIP:
            with gzip.GzipFile(fileobj=BytesIO(data)) as file:
                found = file.read(most + 1)
        elif codec == _SNAPPY:
            found = _unsnapped(data, most)
        elif codec in (_LZ4, _ZSTD):
            into = {_LZ4: cramjam.lz4, _ZSTD: cramjam.zstd}[codec].decompress_into
            found = _grown(into, data, most)
        else:
            raise _Unreadable(f"the batch is compressed in a way that is not known ({codec})")
    except cramjam.DecompressionError as error:
        raise _Unreadable(f"the batch cannot be decompressed: {error}") from error
    if len(found) > most:
        raise _too_large(most)
    return found


def _grown(into: Any, data: bytes, most: int) -> bytes:
    """What fits into a buffer, which grows: most batches are small, and none says how large it becomes."""
    size = max(1 << 16, 16 * len(data))
    while True:
        buffer = bytearray(min(size, most))
        try:
            return bytes(memoryview(buffer)[: into(data, buffer)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
            if size >= most:
                raise _too_large(most) from error
            size *= 8


def _unsnapped(data: bytes, most: int) -> bytes:
    """Snappy's blocks, in the frame that Kafka's Java client makes or alone; each says how large it becomes."""
    if not data.startswith(_XERIAL):
        blocks = [data]
    else:
        blocks, at = [], _XERIAL_HEADER_BYTES
        while at < len(data):
            (size,) = struct.unpack_from(">i", data, at)
            if size <= 0:
                raise ValueError("a block of no size")
            blocks.append(data[at + 4 : at + 4 + size])
            at += 4 + size
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > most:
        raise _too_large(most)
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def _too_large(most: int) -> _Unreadable:
    return _Unreadable(f"the batch becomes larger than {most} bytes when it is decompressed")


def read_safely() -> None:
    """From now on every consumer of this process reads batches so."""
    fetcher.MemoryRecords = Batches
