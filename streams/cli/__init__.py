"""The `design-dedup` command, one file per family of commands."""

import os

# Before NumPy is imported: the products here are small, and threads of BLAS cost ten times what they gain.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
