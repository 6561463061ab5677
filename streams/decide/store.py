"""Where sealed rows lie: Milvus (Lite or Standalone, one code path) or, for unit tests, a dictionary.

A collection holds the rows of one log and one encoder version; its name carries both. A row never changes, so writing
it twice is harmless. Every error of the client is Retryable: Milvus is a view and may come back at any time.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from streams.decide.things import Found
from streams.errors import Retryable
from streams.events import Kind

T = TypeVar("T")
MOST_HITS: Final = 16_384
"""The largest limit Milvus takes."""

_CHANNEL: Final = {
    # The default keep-alive gets idle channels thrown out ("too_many_pings").
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.keepalive_time_ms": 2**31 - 1,
    "grpc.use_local_subchannel_pool": 1,  # or a new client would get the dead connection of the old one
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 1500,  # so long may connecting take
    "grpc.max_reconnect_backoff_ms": 500,
}
_FIRST_S: Final = 3.0
"""Deadline of connecting, and of each kind of call until one took longer. A connection that a network has forgotten is
open and silent, and work has to go on within 5 s of its return; a Milvus that lives and is slow gets more time call by
call. By kind, or a quick call would take from a slow one the time that it was just given, and it would never end."""
_SCAN: Final = 4096
_KINDS: Final[dict[Kind, int]] = {"item": 0, "design": 1}
_NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})

# pymilvus logs about a hundred lines a failed call, and raises as well.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Row:
    """A picture of something that exists, or a window of one: its key, who it is, and its vector (dim,) int16."""

    key: int
    kind: Kind
    id: str
    vector: NDArray[np.int16]


class Store(Protocol):
    """Durable rows of one log, by encoder version. Not thread-safe. Every call may raise Retryable."""

    def prepare(self, encoder: str, dim: int) -> None:
        """Make the collection unless it is there. `write` needs it; all others find nothing where there is none."""

    def search(
        self, encoder: str, queries: NDArray[np.int16], limit: int, low: int, high: int, only: Kind | None = None
    ) -> list[Found]:
        """For every query (n, dim), the `limit` <= MOST_HITS best rows with low <= key < high, of both kinds or one."""

    def write(self, encoder: str, rows: Sequence[Row]) -> None:
        """Write rows and flush: on return they are durable and seen by a search."""

    def delete(self, encoder: str, keys: Sequence[int]) -> None:
        """Forget rows, if they are there."""

    def count(self, encoder: str, low: int, high: int) -> int:
        """How many rows have low <= key < high."""

    def scan(self, encoder: str, low: int, high: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
        """Every row with low <= key < high, in slices (keys, vectors), in no order."""

    def drop(self) -> None:
        """Forget every collection of this log."""

    def close(self) -> None:
        """Let go of connections."""


class MilvusStore:
    """Rows in Milvus."""

    def __init__(
        self, uri: str, token: str, timeout_s: float, log_id: str, options: Mapping[str, str] = _NO_OPTIONS
    ) -> None:
        """`options` are more of the client's own arguments (TLS)."""
        self._uri, self._token, self._longest_s, self._options = uri, token, timeout_s, options
        self._deadlines_s: dict[str, float] = {}
        self._prefix = f"dedup_{log_id}_"
        self._client: MilvusClient | None = None
        self._known: set[str] = set()

    def _call(self, kind: str, call: Callable[[MilvusClient, float], T]) -> T:
        """What `call` makes of a client and its deadline in seconds."""
        deadline_s = self._deadline_s(kind)
        begin = time.monotonic()
        try:
            if self._client is None:
                self._client = self._connected()
                begin = time.monotonic()
            answer = call(self._client, deadline_s)
        # ValueError: a call on a channel that was closed by a restart of the server.
        except (MilvusException, grpc.RpcError, OSError, ValueError) as error:
            if self._client is not None and time.monotonic() - begin >= deadline_s:
                self._deadlines_s[kind] = min(2 * deadline_s, self._longest_s)
            self.close()
            raise Retryable(f"milvus at {self._uri}: {error}") from error
        took_s = time.monotonic() - begin
        self._deadlines_s[kind] = min(max(_FIRST_S, 2 * took_s), self._longest_s)
        return answer

    def _deadline_s(self, kind: str) -> float:
        return self._deadlines_s.get(kind, min(_FIRST_S, self._longest_s))

    def _connected(self) -> MilvusClient:
        return MilvusClient(
            self._uri,
            token=self._token,
            timeout=min(_FIRST_S, self._longest_s),
            dedicated=True,  # a shared connection outlives its client: the next one would get it, dead as it is
            grpc_options=dict(_CHANNEL),
            **self._options,
        )

    def _name(self, encoder: str) -> str:
        return f"{self._prefix}{encoder}"

    def _is_there(self, encoder: str) -> bool:
        """Whether there is a collection; if so it is loaded, which a restarted Milvus may ask for."""
        name = self._name(encoder)

        def load(client: MilvusClient, deadline_s: float) -> bool:
            if not client.has_collection(name, timeout=deadline_s):
                return False
            client.load_collection(name, timeout=deadline_s)
            self._known.add(name)
            return True

        return name in self._known or self._call("load", load)

    def prepare(self, encoder: str, dim: int) -> None:
        """Make the collection unless it is there. `write` needs it; all others find nothing where there is none."""
        name = self._name(encoder)
        if name in self._known:
            return

        def make(client: MilvusClient, deadline_s: float) -> None:
            if not client.has_collection(name, timeout=deadline_s):
                schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("pk", DataType.INT64, is_primary=True)
                schema.add_field("kind", DataType.INT8)
                schema.add_field("id", DataType.VARCHAR, max_length=1024)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
                index = client.prepare_index_params()
                # Exact: the fold promises the neighbours, not most of them.
                index.add_index(field_name="vector", index_type="FLAT", metric_type="IP")
                client.create_collection(
                    name, schema=schema, index_params=index, consistency_level="Strong", timeout=deadline_s
                )
            client.load_collection(name, timeout=deadline_s)

        self._call("make", make)
        self._known.add(name)

    def search(
        self, encoder: str, queries: NDArray[np.int16], limit: int, low: int, high: int, only: Kind | None = None
    ) -> list[Found]:
        """For every query (n, dim), the `limit` <= MOST_HITS best rows with low <= key < high, of both kinds or one."""
        where = f"pk >= {low} and pk < {high}" + (f" and kind == {_KINDS[only]}" if only else "")

        def search(client: MilvusClient, deadline_s: float) -> list[Any]:
            answer: list[Any] = client.search(
                self._name(encoder), data=list(queries.astype(np.float32)), anns_field="vector", limit=limit,
                filter=where, search_params={"metric_type": "IP"}, timeout=deadline_s,
            )  # fmt: skip
            return answer

        if not self._is_there(encoder):
            return [Found(np.zeros(0, np.int64), np.zeros(0, np.int64), None) for _ in queries]
        answer = self._call("search", search)
        if len(answer) != len(queries):
            raise Retryable(f"milvus answered {len(answer)} of {len(queries)} queries")
        found = []
        for hits in answer:
            scores = np.rint(np.array(hits.distances, np.float64)).astype(np.int64)
            # Not by the key's name, which Milvus tells since 2.4 only.
            keys = np.array(hits.ids, np.int64)
            found.append(Found(scores, keys, int(scores.min()) if len(hits) == limit else None))
        return found

    def write(self, encoder: str, rows: Sequence[Row]) -> None:
        """Write rows and flush: on return they are durable and seen by a search."""
        data = [
            {"pk": row.key, "kind": _KINDS[row.kind], "id": row.id, "vector": row.vector.astype(np.float32)}
            for row in rows
        ]
        name = self._name(encoder)
        self._call("upsert", lambda client, deadline_s: client.upsert(name, data, timeout=deadline_s))
        self._call("flush", lambda client, deadline_s: client.flush(name, timeout=deadline_s))

    def delete(self, encoder: str, keys: Sequence[int]) -> None:
        """Forget rows, if they are there."""
        if keys and self._is_there(encoder):
            name, ids = self._name(encoder), list(keys)
            self._call("delete", lambda client, deadline_s: client.delete(name, ids=ids, timeout=deadline_s))

    def count(self, encoder: str, low: int, high: int) -> int:
        """How many rows have low <= key < high."""
        if not self._is_there(encoder):
            return 0
        name = self._name(encoder)

        def rows(kind: str, where: str, field: str, **options: int) -> list[dict[str, Any]]:
            return self._call(
                kind, lambda client, deadline_s: client.query(name, where, [field], timeout=deadline_s, **options)
            )

        # Milvus Lite reads each row that a condition holds for, 4 s for 100,000, and counts all in 0.1 s. Nearly always
        # there are no others: asked second, so that those that were counted are seen.
        count = rows("count all", "", "count(*)")
        if rows("others", f"pk < {low} or pk >= {high}", "pk", limit=1):
            count = rows("count", f"pk >= {low} and pk < {high}", "count(*)")
        return int(count[0]["count(*)"])

    def scan(self, encoder: str, low: int, high: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
        """Every row with low <= key < high, in slices (keys, vectors), in no order."""
        if not self._is_there(encoder):
            return
        iterator = self._call(
            "iterate",
            lambda client, deadline_s: client.query_iterator(
                self._name(encoder),
                batch_size=_SCAN,
                filter=f"pk >= {low} and pk < {high}",
                output_fields=["pk", "vector"],
                timeout=max(deadline_s, self._deadline_s("next")),  # it keeps this for every slice
            ),
        )
        try:
            while rows := self._call("next", lambda _, __: iterator.next()):
                keys = np.fromiter((row["pk"] for row in rows), np.int64, len(rows))
                yield keys, np.array([row["vector"] for row in rows], np.float32).astype(np.int16)
        finally:
            iterator.close()

    def drop(self) -> None:
        """Forget every collection of this log."""
        for name in self._call("list", lambda client, deadline_s: client.list_collections(timeout=deadline_s)):
            if name.startswith(self._prefix):
                self._call("drop", lambda client, s, name=name: client.drop_collection(name, timeout=s))  # type: ignore[misc]
        self._known.clear()

    def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        self._known.clear()
        if client is not None:
            try:
                client.close()
            except (MilvusException, grpc.RpcError, OSError, ValueError):
                logging.getLogger(__name__).debug("closing a dead client", exc_info=True)


class MemoryStore:
    """The same in a dictionary: the double of unit tests and simulations; nothing is durable."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, Row]] = {}

    def prepare(self, encoder: str, dim: int) -> None:
        """Make the collection unless it is there. `write` needs it; all others find nothing where there is none."""
        self._rows.setdefault(encoder, {})

    def _between(self, encoder: str, low: int, high: int) -> list[Row]:
        return [row for key, row in self._rows.get(encoder, {}).items() if low <= key < high]

    def search(
        self, encoder: str, queries: NDArray[np.int16], limit: int, low: int, high: int, only: Kind | None = None
    ) -> list[Found]:
        """For every query (n, dim), the `limit` <= MOST_HITS best rows with low <= key < high, of both kinds or one."""
        rows = [row for row in self._between(encoder, low, high) if only in (None, row.kind)]
        found = []
        for query in queries:
            ranked = sorted(((int(query.astype(np.int64) @ row.vector), row.key) for row in rows), reverse=True)[:limit]
            scores, keys = (np.array([hit[i] for hit in ranked], np.int64) for i in (0, 1))
            found.append(Found(scores, keys, int(scores[-1]) if len(ranked) == limit else None))
        return found

    def write(self, encoder: str, rows: Sequence[Row]) -> None:
        """Write rows and flush: on return they are durable and seen by a search."""
        if encoder not in self._rows:
            raise Retryable(f"no collection for {encoder}")
        self._rows[encoder].update((row.key, row) for row in rows)

    def delete(self, encoder: str, keys: Sequence[int]) -> None:
        """Forget rows, if they are there."""
        for key in keys:
            self._rows.get(encoder, {}).pop(key, None)

    def count(self, encoder: str, low: int, high: int) -> int:
        """How many rows have low <= key < high."""
        return len(self._between(encoder, low, high))

    def scan(self, encoder: str, low: int, high: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
        """Every row with low <= key < high, in slices (keys, vectors), in no order."""
        for row in self._between(encoder, low, high):
            yield np.array([row.key]), row.vector[None]

    def drop(self) -> None:
        """Forget every collection of this log."""
        self._rows.clear()

    def close(self) -> None:
        """Let go of connections."""
