"""What is promised, by number: the rows of the README's table."""

from typing import Final

PROMISES: Final = {
    1: "Whatever happens between two effects, the verdicts are the oracle's",
    2: "A worker killed at any moment loses and contradicts nothing",
    3: "Workers that come, go, hang and wake contradict nothing",
    4: "While a dependency is down everything waits, and goes on by itself",
    5: "Twins published at once are never both accepted",
    6: "A replay says the same word for word; what was lost is made again",
    7: "After a position no answer shows what was deleted before it",
    8: "A late catalogue revises what was said, once",
    9: "Bad input ends as a dead letter with its reason and disturbs nothing",
    10: "A reference reaches no address and no file that it must not",
    11: "Connections are encrypted and authenticated where settings say so",
    12: "Dead letters can be listed, looked into and replayed",
    13: "Memory, files and search time stay flat under load and faults",
}
