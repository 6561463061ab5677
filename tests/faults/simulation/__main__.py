"""Schedules by their seeds, each with its faults: `python -m tests.faults.simulation SEED [SEED ...]`."""

import sys

from tests.faults.simulation.schedules import simulate, small

if __name__ == "__main__":
    with small():
        for seed in map(int, sys.argv[1:]):
            print(simulate(seed))
