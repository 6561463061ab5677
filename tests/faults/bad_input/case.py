"""One hostile event and what may be said of it."""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["design", "item"]
ACCEPTED: Final = frozenset({""})
"""It looks hostile and is within the rules: a record, not a dead letter."""


@dataclass(frozen=True, slots=True)
class Case:
    """reasons: of the dead letter, any of them; "" for none. own_key: it has this key, else one made of its name."""

    name: str
    kind: Kind
    value: bytes | None
    reasons: frozenset[str]
    key: bytes | None = None
    own_key: bool = False

    @property
    def id(self) -> bytes | None:
        """The key of its message."""
        return self.key if self.own_key else f"{self.kind} {self.name}"[:200].encode()
