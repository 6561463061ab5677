"""A history of a catalogue and of designs as services upstream make it: upserts, deletes, late versions, copies, twins,
revisions, resubmissions and withdrawals. And the command line as a person runs it beside the workers."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from tests.pictures import cropped, drawn, photographed
from tests.service import Event, Service, design, item

Step = tuple[Literal["item", "design"], str, Event]

_CATEGORIES = ("", "shirts", "trousers")


def history(count: int, seed: int) -> list[Step]:
    """`count` events after the first third of the catalogue."""
    rng = random.Random(seed)
    steps: list[Step] = [("item", f"item{n}", item(photographed(n))) for n in range(count // 8)]
    listed = {f"item{n}": (n, 0) for n in range(count // 8)}
    published: dict[str, Event] = {}
    looks = max(8, count // 5)
    while len(steps) < count:
        steps += _some(rng, listed, published, looks)
    return steps


def _some(
    rng: random.Random, listed: dict[str, tuple[int, int]], published: dict[str, Event], looks: int
) -> Iterator[Step]:
    def publish(name: str, event: Event) -> Step:
        published[name] = event
        return "design", name, event

    known, name, n = list(published), f"design{len(published)}", rng.randrange(looks)
    action = rng.choices(("new", "copy", "twin", "again", "revise", "withdraw", "upsert", "delete"),
                         (30, 20, 14, 8, 8, 5, 10, 5))[0]  # fmt: skip
    match action:
        case "new":
            # The garment of a photograph, drawn, is near it, but not near enough.
            seed = n if rng.random() < 0.3 else 1000 + n
            yield publish(name, design(drawn(seed), category=rng.choice(_CATEGORIES)))
        case "copy":
            yield publish(name, design(photographed(n, rng.choice((90, 60))), category=rng.choice(_CATEGORIES)))
        case "twin":
            pair = (drawn(1000 + n), rng.choice((drawn(1000 + n, 60), cropped(1000 + n))))
            yield publish(name, design(pair[0]))
            yield publish(f"{name} twin", design(pair[1]))
        case "again" if known:
            again = rng.choice(known)
            yield "design", again, published[again]
        case "revise" if known:
            yield publish(rng.choice(known), design(drawn(1000 + n, 75), photographed(n, 75)))
        case "withdraw" if known:
            gone = rng.choice(known)
            del published[gone]
            yield "design", gone, None
        case "upsert":
            which = f"item{rng.randrange(looks)}"
            _, version = listed.get(which, (0, 0))
            listed[which] = (n, version + 1)
            yield "item", which, item(photographed(n), version=rng.choice((version + 1, version, max(0, version - 1))))
        case "delete" if listed:
            which = rng.choice(list(listed))
            del listed[which]
            yield "item", which, None


async def play(service: Service, steps: Sequence[Step]) -> None:
    """Send a history; what stands together there goes out together."""
    for kind, group in groupby(steps, key=lambda step: step[0]):
        send = service.update if kind == "item" else service.publish
        await send((name, event) for _, name, event in group)


async def command(service: Service, *arguments: object, code: int = 0) -> str:
    """What a command prints on standard output; its standard error where that is all, and an exit code is expected."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "streams.cli.main", *map(str, arguments)],
        env=service.full_env(), capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout if code == 0 or done.stdout else done.stderr
