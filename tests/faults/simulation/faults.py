"""What goes wrong, drawn from the seed; and the trace of it, by which a replay is compared step by step."""

import hashlib
import random
from collections import Counter
from typing import Final, Literal

Fault = Literal["", "crash", "freeze", "stop", "rebalance", "retry", "delay"]

SESSION_S: Final = 3.0
"""How long a group waits for a member that says nothing."""

_KINDS: Final[dict[Fault, int]] = {"crash": 5, "freeze": 4, "rebalance": 3, "retry": 5, "delay": 3, "stop": 2}
_RATES: Final = (0.0, 0.01, 0.03, 0.06)
_MOST: Final = 8
"""Faults of one schedule: it has to end."""


class Faults:
    """The faults of one schedule. They end with `heal`."""

    def __init__(self, rng: random.Random, *, lies: bool) -> None:
        """lies: owners differ, so what matters is who speaks first."""
        self.rng = rng
        self.counts = Counter[str]()
        self.trace: list[str] = []
        self.steps = 0
        self._left = rng.randint(1, _MOST)
        self._rate = rng.choice(_RATES)
        # One kind of fault at one kind of step, besides: rare steps would hardly ever be hit otherwise.
        self._aim = rng.choice(_AIMS_OF_LIARS if lies else _AIMS)
        self._kinds = {**_KINDS, "freeze": 12} if lies else _KINDS
        self._aim_rate = rng.choice((0.0, 0.2, 0.5))
        self._digest = hashlib.sha256()

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self._left = 0

    def pause_s(self) -> float:
        """How long a frozen process is frozen: shorter or longer than a session."""
        return self.rng.uniform(0.2, 3 * SESSION_S)

    def draw(self, process: str, point: str, *, network: bool) -> Fault:
        """What happens to a process at a step."""
        self.steps += 1
        fault: Fault = ""
        if self._left:
            rate = self._aim_rate if point == self._aim else self._rate
            if self.rng.random() < rate:
                fault = self.rng.choices(list(self._kinds), list(self._kinds.values()))[0]
                if fault == "retry" and not network:
                    fault = ""
        self._note(f"{self.steps} {process} {point} {fault}")
        if fault:
            self.happened(fault, process, point)
        return fault

    def chance(self, what: str, process: str, probability: float) -> bool:
        """Whether something that is not drawn at every step happens."""
        happens = self._left > 0 and self._rate > 0 and self.rng.random() < probability
        if happens:
            self.happened(what, process, "")
        return happens

    def happened(self, fault: str, process: str, point: str) -> None:
        """Count a fault, and write it down."""
        self._left -= 1
        self.counts[fault] += 1
        self.trace.append(f"step {self.steps}: {fault} of {process} {point}".rstrip())

    def _note(self, step: str) -> None:
        self._digest.update(step.encode())

    @property
    def digest(self) -> str:
        """The same for two runs that took the same steps."""
        return self._digest.hexdigest()[:16]


_AIMS: Final = (
    "before append", "after append", "before publish", "after publish", "before commit", "after commit",
    "before judge", "after judge", "before offset", "after offset", "before write", "after write", "before finish",
    "after finish", "before delete", "after delete", "before plan", "after plan", "before since", "before read",
    "before search", "before between", "before open", "after open", "before encode", "fetch", "before publish",
    "after publish", "before write", "after write",
)  # fmt: skip
_AIMS_OF_LIARS: Final = ("after judge", "before publish", "before publish", "after publish", "before commit")
