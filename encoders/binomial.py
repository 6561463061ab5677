"""How sure a counted rate is: one-sided exact bounds for the chance behind k hits in n independent trials.

C. Clopper and E. Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, Biometrika
1934. NumPy only.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
"""How sure the bounds are: at most one calibration in twenty is worse than it says."""

_HALVINGS: Final = 60  # of the interval from 0 to 1: what is left is below a double's resolution


def cumulative(hits: int, n: int, chance: float) -> NDArray[np.float64]:
    """P(at most k hits) for k = 0..hits in n trials of a chance between 0 and 1. Shape: (hits + 1,)."""
    k = np.arange(1, hits + 1)
    ways = np.concatenate([[0.0], np.cumsum(np.log(n - k + 1) - np.log(k))])  # the logarithm of n over k
    k = np.arange(hits + 1)
    each: NDArray[np.float64] = np.exp(ways + k * math.log(chance) + (n - k) * math.log1p(-chance))
    return np.minimum(np.cumsum(each), 1.0)


@lru_cache
def upper_bound(hits: int, n: int, confidence: float = CONFIDENCE) -> float:
    """The largest chance under which so few hits in n trials are not rarer than 1 - confidence; 1 without trials."""
    if hits >= n:
        return 1.0
    if hits == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    low, high = hits / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cumulative(hits, n, middle)[-1] > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def allowed_hits(n: int, rate: float, confidence: float = CONFIDENCE) -> int:
    """The most hits in n trials whose `upper_bound` is at most `rate`; -1 where not even none would do."""
    # The mean is never allowed, so no larger k need be looked at.
    up_to = min(n - 1, math.ceil(n * rate))
    return -1 if n < 1 else int((cumulative(up_to, n, rate) <= 1 - confidence).sum()) - 1


def trials_needed(rate: float, confidence: float = CONFIDENCE) -> int:
    """How many trials without a hit it takes to show a chance of at most `rate`: 299 for 1 %, 2,995 for 0.1 %."""
    n = max(1, math.floor(math.log1p(-confidence) / math.log1p(-rate)))
    while allowed_hits(n, rate, confidence) < 0:
        n += 1
    return n
