"""From pictures to what thresholds are chosen by: negatives, one a cluster, and the duplicates that they should find.

Arithmetic is in `encoders` (described.py, negatives.py, calibration.py); here it is fed with what the worker sees.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import LARGEST, Negatives
from encoders.described import FIRES, HashRule, pair_scores
from encoders.negatives import nearest_products, pair_id, pairs_of
from streams.cli.calibration_sources import Item, Labelled
from streams.cli.console import say
from streams.cli.describing import Album, Describer
from streams.errors import Fatal

_NAMED = 20


@dataclass(frozen=True, slots=True)
class Found:
    """Duplicates that should be found. Shape: scores (n,), category (n,) str."""

    scores: NDArray[np.floating]
    category: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Suspect:
    """Two pictures that count as unrelated and are near: perhaps a true duplicate."""

    id: str
    similarity: float
    a: Path
    b: Path
    names: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Measured:
    """negatives and their nearest pairs (`suspects`, nearest first, each pair once); duplicates by how they were made.

    removed: the pairs of `--removed` that were there. facts: for the record.
    """

    negatives: Negatives
    suspects: Sequence[Suspect]
    duplicates: dict[str, Found]
    removed: Sequence[str]
    facts: dict[str, object] = field(default_factory=dict)


async def of_catalogue(
    describer: Describer,
    items: Sequence[Item],
    rule: HashRule | None,
    removed: Sequence[str],
    copies: int,
    seed: int,
    largest: int = LARGEST,
) -> Measured:
    """Negatives: the nearest other product of each one. Duplicates: edited copies of some pictures. Fatal without any
    picture."""
    items = list({item.path: item for item in items}.values())
    album = await _album(describer, [item.path for item in items])
    by_path = {item.path: item for item in items}
    kept = [by_path[path] for path in album.paths]
    products, categories = [item.product for item in kept], [item.category for item in kept]
    gone = pairs_of(removed, set(products))
    same: dict[str, set[str]] = {}
    for a, b in gone.values():
        same.setdefault(a, set()).add(b)
        same.setdefault(b, set()).add(a)
    found = nearest_products(
        album.designs, album.gallery, products, album.digests, categories, rule, seed, same, largest
    )
    suspects = {
        pair: Suspect(pair, float(score), album.paths[i], album.paths[j], (products[i], products[j]))
        for score, i, j in zip(found.negatives.scores[-1], found.picture, found.other, strict=True)
        for pair in (pair_id(products[i], products[j]),)
    }
    chosen = np.sort(np.random.default_rng(seed).permutation(len(kept))[:copies])
    made = await describer.copies([album.paths[i] for i in chosen], seed) if len(chosen) else {}
    originals, category = album.gallery.at(chosen), np.array(categories, np.str_)[chosen]
    return Measured(
        found.negatives,
        sorted(suspects.values(), key=lambda one: (-one.similarity, one.id)),
        {name: Found(pair_scores(copy, originals, rule), category) for name, copy in made.items()},
        list(gone),
        {
            "source": "a catalogue: the nearest other product of each product, and edited copies",
            "products": len(set(products)),
            "distinct_pairs": len(suspects),
            "seed": seed,
            **_facts(album),
        },
    )


async def of_pairs(
    describer: Describer,
    pairs: Sequence[Labelled],
    rule: HashRule | None,
    removed: Sequence[str],
    rows: int | None,
    *,
    use_digest: bool,
) -> Measured:
    """Negatives: the nearest pair labelled different of each cluster. rows: how many were searched for the pairs; None:
    as many as different pictures stand in b. Fatal without any picture."""
    album = await _album(describer, list(dict.fromkeys(path for pair in pairs for path in (pair.a, pair.b))))
    row = {path: i for i, path in enumerate(album.paths)}
    pairs = [pair for pair in pairs if pair.a in row and pair.b in row]
    a, b = (np.array([row[path] for path in column], np.intp) for column in _columns(pairs))
    score = pair_scores(album.designs.at(a), album.gallery.at(b), rule)
    equal = np.array([album.digests[i] == album.digests[j] for i, j in zip(a, b, strict=True)], bool)
    if use_digest:
        score[equal] = FIRES
    ids = [pair_id(*pair.names) for pair in pairs]
    different = np.array([pair.label == "different" for pair in pairs], bool)
    negative = different & ~equal & ~np.isin(ids, removed)
    if clash := int((different & equal).sum()):
        say(f"{clash} pairs are labelled different and are the same file; they are left out")
    best: dict[str, int] = {}
    for i in np.flatnonzero(negative)[np.argsort(-score[negative], kind="stable")].tolist():
        best.setdefault(pairs[i].cluster, i)
    order = list(best.values())
    category = np.array([pair.category for pair in pairs], np.str_)
    duplicate = ~different
    return Measured(
        Negatives([rows or len(set(b.tolist()))], score[None, order], category[order]),
        [Suspect(ids[i], float(score[i]), pairs[i].a, pairs[i].b, pairs[i].names) for i in order],
        {"labelled": Found(score[duplicate], category[duplicate])} if duplicate.any() else {},
        [one for one in removed if one in ids],
        {
            "source": "labelled pairs: the nearest one labelled different of each cluster",
            "pairs": len(pairs),
            "labelled_different": int(different.sum()),
            "labelled_duplicate": int(duplicate.sum()),
            **_facts(album),
        },
    )


def _columns(pairs: Sequence[Labelled]) -> tuple[list[Path], list[Path]]:
    return [pair.a for pair in pairs], [pair.b for pair in pairs]


async def _album(describer: Describer, paths: Sequence[Path]) -> Album:
    album = await describer.album(paths)
    for path, error in list(album.broken.items())[:_NAMED]:
        say(f"{path}: {error.reason}: {error}")
    if album.broken:
        say(f"{len(album.broken)} of {len(paths)} pictures cannot be used and are left out")
    if not album.paths:
        raise Fatal("no picture can be used")
    return album


def _facts(album: Album) -> dict[str, object]:
    """What was measured on: the hash of the names and contents of all pictures."""
    lines = sorted(f"{path.name} {digest.hex()}" for path, digest in zip(album.paths, album.digests, strict=True))
    data = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return {"pictures": len(album.paths), "data_sha256": data}
