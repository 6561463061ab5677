"""What a burst of pictures freed goes back to the system, whatever came before it."""

import subprocess
import sys

import pytest

BURST = """
import sys, numpy as np, psutil
from streams.cli.worker import _return_what_is_freed
if sys.argv[1] == "yes":
    _return_what_is_freed()
rss = lambda: psutil.Process().memory_info().rss / 1e6
np.ones(24 << 20, np.uint8)  # from now on glibc takes arrays up to this size from its heap
before, burst, kept = rss(), [], []
for _ in range(150):
    burst.append(np.ones(1 << 20, np.uint8))
    kept.append(np.ones(1 << 16, np.uint8))  # too large for a hole that something else left further down
del burst
print(rss() - before)
"""


def kept_mb(call: str) -> float:
    return float(subprocess.run([sys.executable, "-c", BURST, call], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt")
def test_a_worker_keeps_nothing_of_a_burst() -> None:
    assert kept_mb("yes") < 20
    assert kept_mb("no") > 100, "this C library gives everything back by itself: mallopt is not needed any more"
