"""The wire vocabulary: what travels on the topics, and nothing about how it travels.

Public values (`GeneratedDesign`, `CatalogUpdate`, `Verdict`) are JSON; the log's records are MessagePack and internal.
Vectors are *lattice vectors*: `rint(2048 * unit vector)` as int16. A dot product of two of them is an integer below
2^24, exact in float32 in any order of summation, so every search gives the same number in any batch.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from streams.errors import Fatal, Invalid

LATTICE: Final = 2048
UNIT: Final = LATTICE * LATTICE
"""The similarity 1.0 on the integer scale on which everything is compared."""

REVISIONS: Final = 100
"""The most verdicts that one change of the catalogue may revise."""

MAX_IMAGES: Final = 8
MAX_WINDOWS: Final = 15
"""Of one picture."""

MAX_VERSION: Final = 2**63 - 1
"""What MessagePack and SQLite hold."""

ID_PATTERN: Final = r"^[^\x00-\x1f\x7f]+$"

Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=ID_PATTERN)]
Label = Annotated[str, Meta(max_length=200)]
Word = Literal["accept", "duplicate"]
Kind = Literal["item", "design"]
Signal = Literal["vector", "hash", "digest"]


class Image(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One picture: `data` (base64 in JSON) or `uri` (`file:`, `http(s):`, `s3:`, `gs:`), exactly one of them."""

    data: bytes | None = None
    uri: Annotated[str, Meta(max_length=4096)] | None = None


Images = Annotated[tuple[Image, ...], Meta(min_length=1, max_length=MAX_IMAGES)]


class GeneratedDesign(Struct, frozen=True, omit_defaults=True):
    """Value of `designs.generated`; the key is its id, a null value withdraws it. Unknown fields are ignored."""

    images: Images
    category: Label = ""
    title: Annotated[str, Meta(max_length=2000)] = ""
    tenant: Label = "default"
    generator: Label = ""
    created_at: datetime | None = None


class CatalogUpdate(Struct, frozen=True, omit_defaults=True):
    """Value of `catalog.updates`; the key is the item's id, a null value deletes it.

    `version`: an older one never overwrites a newer one. `design_id`: the design this item was made from.
    """

    images: Images
    category: Label = ""
    title: Annotated[str, Meta(max_length=2000)] = ""
    tenant: Label = "default"
    version: Annotated[int, Meta(ge=0)] = 0
    design_id: Id | None = None


class Neighbour(Struct, frozen=True):
    """What a design was found near to. `similarity` is that of the strongest signal, 0 to 1."""

    id: str
    kind: Kind
    similarity: float
    signal: Signal


class Verdict(Struct, frozen=True, kw_only=True):
    """What was said of one revision of a design. The first event of a `verdict_id` is the authoritative one.

    revises: of an event `verdict.revised`, the verdict_id whose place it takes; `cause` is then the item that came late
    or was deleted. `position` is that of the item's record.
    """

    verdict_id: str
    design_id: str
    verdict: Word
    similarity: float
    threshold: float
    neighbours: tuple[Neighbour, ...]
    category: str
    title: str = ""
    tenant: str
    generator: str
    encoder_version: str
    policy_version: str
    image_digests: tuple[str, ...]
    position: int
    shard: int
    submitted_at_ms: int
    advisory: bool
    revises: str | UnsetType = UNSET
    cause: str | UnsetType = UNSET


class Picture(Struct, frozen=True, array_like=True):
    """What the log keeps of one picture, never the picture itself.

    digest: SHA-256 of the file, 32 bytes. hash: PDQ, 32 bytes. quality: PDQ's, 0 to 100. colour: the mean RGB of a
    4 x 4 grid, 48 bytes. vector: int16 little-endian lattice vectors of `2 * dim` bytes each, the picture's own and one
    for each of its `windows`, its small copy among them (`encoders.preprocess.as_in_catalog`).
    """

    digest: bytes
    hash: bytes
    quality: int
    colour: bytes
    vector: bytes
    windows: Annotated[int, Meta(ge=0, le=MAX_WINDOWS)] = 0

    def vectors(self) -> list[bytes]:
        """One by one."""
        size = len(self.vector) // (1 + self.windows)
        return [self.vector[start : start + size] for start in range(0, len(self.vector), size)]


Threshold = Annotated[float, Meta(gt=0, le=1)]


class Step(Struct, frozen=True, kw_only=True):
    """The thresholds from `rows` live rows on (a power of two). They replace those before, all of them: a category that
    is not named has `similarity`.

    extrapolated: chosen for more rows than were measured; it says what the number is worth and decides nothing.
    """

    rows: Annotated[int, Meta(ge=1)]
    similarity: Threshold
    categories: Mapping[str, Threshold] = {}
    extrapolated: bool = False


class Policy(Struct, frozen=True, kw_only=True, dict=True):
    """What decides. Thresholds are similarities, 0 to 1; distances are whole numbers (bits; levels of 255).

    `similarity` and `categories` hold while fewer rows live than the first of `steps` names. `leave_out`: how many
    numbers at the end of a design's vector are not compared: its colour block, where a recolour is a duplicate.
    `revisions`: how many earlier verdicts one change of the catalogue may revise; where it would be more, none is. 0:
    what was said stands.
    """

    similarity: Threshold
    categories: Mapping[str, Threshold] = {}
    use_digest: bool = True
    use_hash: bool = True
    hash_distance: Annotated[int, Meta(ge=0, le=256)] = 0
    hash_colour: Annotated[int, Meta(ge=0, le=255)] = 0
    hash_quality: Annotated[int, Meta(ge=0, le=100)] = 100
    neighbours: Annotated[int, Meta(ge=1, le=20)] = 5
    advisory: bool = False
    steps: tuple[Step, ...] = ()
    leave_out: Annotated[int, Meta(ge=0, le=4096)] = 0
    revisions: Annotated[int, Meta(ge=0, le=REVISIONS)] = REVISIONS

    def __post_init__(self) -> None:
        rows = [step.rows for step in self.steps]
        if any(n & (n - 1) for n in rows) or any(a >= b for a, b in pairwise(rows)):
            raise ValueError(f"the rows of steps must be powers of two and ascend, not {rows}")

    @cached_property
    def version(self) -> str:
        """Content hash: the same rules have the same version on every machine."""
        rules = msgspec.to_builtins(self, order="deterministic")
        for name, unused in (("steps", ()), ("leave_out", 0), ("revisions", REVISIONS)):
            if getattr(self, name) == unused:
                del rules[name]  # so a policy keeps the version it had before there was such a rule
        return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()[:12]

    def threshold(self, category: str, rows: int = 0) -> float:
        """The similarity from which a design of this category is a duplicate where `rows` pictures exist: those of the
        last step with no more rows, else the policy's own."""
        rule = self._rule(rows)
        return rule.categories.get(category, rule.similarity)

    def lowest(self, rows: int) -> float:
        """The least threshold of any category where `rows` pictures exist."""
        rule = self._rule(rows)
        return min((rule.similarity, *rule.categories.values()))

    def _rule(self, rows: int) -> "Policy | Step":
        place = bisect_right(self.steps, rows, key=attrgetter("rows"))
        return self.steps[place - 1] if place else self


class LogRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One record of `dedup.log`: what one source event means, with everything the fold needs.

    src: the offset in the source partition `source` ("topic/partition"); config and ready have none (-1).
    log_id: of a config record; the one at position 0 names the log.
    catalog_ends: of the first record, the end of every partition of `catalog.updates` when the log was made.
    """

    kind: Literal["design", "withdraw", "upsert", "delete", "config", "ready"]
    id: str = ""
    source: str = ""
    src: int = -1
    pictures: tuple[Picture, ...] = ()
    encoder: str = ""
    category: str = ""
    title: str = ""
    tenant: str = ""
    generator: str = ""
    version: int = 0
    design_id: str = ""
    submitted_at_ms: int = 0
    policy: Policy | None = None
    log_id: str = ""
    catalog_ends: Mapping[str, int] = {}


_record = msgspec.msgpack.Decoder(LogRecord)
_design = msgspec.json.Decoder(GeneratedDesign)
_update = msgspec.json.Decoder(CatalogUpdate)
_verdict = msgspec.json.Decoder(Verdict)


def encode_record(record: LogRecord) -> bytes:
    """MessagePack of a log record."""
    return msgspec.msgpack.encode(record)


def decode_record(value: bytes) -> LogRecord:
    """A log record again. The log has one kind of writer, so anything unreadable in it is Fatal."""
    try:
        return _record.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Fatal(f"dedup.log holds a record this version cannot read: {error}") from error


def encode_event(event: GeneratedDesign | CatalogUpdate | Verdict) -> bytes:
    """JSON of a public event."""
    return msgspec.json.encode(event)


def decode_verdict(value: bytes) -> Verdict:
    """A verdict from its JSON; Fatal if it is none, since `designs.verdicts` has no other writer."""
    try:
        return _verdict.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Fatal(f"designs.verdicts holds an event that is no verdict: {error}") from error


def decode_design(value: bytes) -> GeneratedDesign:
    """A generated design from its JSON. Invalid: `bad_json`, `bad_event`."""
    design: GeneratedDesign = _decode(_design, value)
    return design


def decode_update(value: bytes) -> CatalogUpdate:
    """A catalogue update from its JSON. Invalid: `bad_json`, `bad_event`."""
    update: CatalogUpdate = _decode(_update, value)
    if update.version > MAX_VERSION:
        raise Invalid("bad_event", f"version is above {MAX_VERSION}")
    if _ends_a_line(update.design_id or ""):
        raise Invalid("bad_event", "design_id ends with a line end")
    return update


def _decode(decoder: msgspec.json.Decoder[Any], value: bytes) -> Any:
    try:
        event = decoder.decode(value)
    except msgspec.ValidationError as error:
        raise Invalid("bad_event", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("bad_json", f"the value is not JSON: {error}") from error
    for number, image in enumerate(event.images):
        if (image.data is None) == (image.uri is None):
            raise Invalid("bad_event", f"image {number} needs exactly one of `data` and `uri`")
    return event


def decode_key(key: bytes | None) -> str:
    """The id that a message's key is. Invalid: `bad_key`."""
    try:
        name = msgspec.convert((key or b"").decode(), Id)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Invalid("bad_key", f"the key must be an id of 1 to 256 printable characters: {error}") from error
    if _ends_a_line(name):
        raise Invalid("bad_key", "the key ends with a line end")
    return name


def _ends_a_line(name: str) -> bool:
    """Python's `$`, unlike that of a JSON Schema, matches before a last line end too."""
    return name.endswith("\n")


class Unreadable(bytes):
    """What stands for the value of an event that could not be read out of its batch; the bytes say why. Nothing that
    comes over the wire is one."""


def lattice(vectors: NDArray[np.float32]) -> NDArray[np.int16]:
    """Unit vectors (n, dim) float32 onto the lattice, (n, dim) int16 in -2048..2048."""
    return np.rint(vectors * LATTICE).astype("<i2")


def verdict_id(log_id: str, shard: int, position: int, revised: str = "") -> str:
    """The name of what was said at a position, of the design `revised` if it was revised there: the same on every
    replay."""
    of = f"/{revised}" if revised else ""
    return hashlib.sha256(f"{log_id}/{shard}/{position}{of}".encode()).hexdigest()[:32]
