"""Chooses the default thresholds of the shipped policy from photographs, and writes down how good they are.

    python -m encoders.calibrate_default --data DIR --out encoders/records/threshold-VERSION.json \\
        --policy streams/decide/policy.toml
    python -m encoders.calibrate_default --data DIR --out encoders/records/threshold-recolour-VERSION.json \\
        --policy streams/decide/recolour.toml --leave-out 64

A gallery of 6,000 packshots; unrelated queries (every product against the other products, and photos of two other sets)
and genuine copies (edits of gallery photos). One similarity for all categories in each bucket of live rows
(`encoders.calibration`), chosen on all products, whose false duplicates are reported crosswise: each half of the
products at what the other half alone would have chosen. The hash rule is chosen on one half, and copies are reported of
the other. Nothing here is fitted to a catalogue of one's own, which is what `design-dedup calibrate` is for. Some six
minutes on one idle core the first time; features are cached in --cache.
"""

import argparse
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image

from encoders.calibration import Calibration, Negatives
from encoders.calibration import calibrate as thresholds
from encoders.data import EDITS, Photo, clothing, content_hash, hm, load, myntra
from encoders.described import LATTICE, Described, HashRule, distances, pair_scores, similarity
from encoders.embedding import session
from encoders.negatives import Neighbours, nearest_products
from encoders.policy_toml import Rest, render, steps
from encoders.preprocess import Domain, as_in_catalog, domain_index, encoder_version, to_pixels

GALLERY: Final = 6_000
COPIES: Final = 1_000
STRANGERS: Final = 1_000  # from each of the two other sets
FALSE_RATE: Final = 0.01
MAX_DISTANCE: Final = 64
MAX_COLOUR: Final = 48
QUALITIES: Final = (0, 50, 80)
MARGIN: Final = (4, 2)  # bits and colour levels by which a hash rule could be laxer without a false duplicate
PLAIN_COPIES: Final = ("reencode", "resize")  # what the hash rule is for


def describe(images: Iterable[Image.Image], model: Any, domain: Domain = "generated") -> Described:
    """Vectors, hashes and colours, as the service makes them of pictures under 1024 px (`streams/embed/images.py`).
    model: an ONNX Runtime session."""
    rows = []
    for image in images:
        # 64 x 64 is PDQ's own inner size. Brought there by Pillow, a copy of 0.4 to 0.9 of the size has a median
        # distance of 2 bits; left to PDQ's box filter, which depends on the size, 26.
        bits, quality = pdqhash.compute(np.array(image.resize((64, 64), Image.Resampling.BICUBIC, reducing_gap=3.0)))
        colour = image.resize((4, 4), Image.Resampling.BOX).tobytes()
        pixels = as_in_catalog(image) if domain == "catalog" else to_pixels(image)[None]
        inputs = {"pixels": pixels, "domain": np.full((len(pixels), 1), domain_index(domain), np.int32)}
        vectors = np.rint(model.run(["embedding"], inputs)[0] * LATTICE)
        rows.append((vectors, np.packbits(bits).tobytes(), quality, colour))
    return Described.of(*zip(*rows, strict=True))


def cached(path: Path, images: Iterable[Image.Image], model: Any, domain: Domain = "generated") -> Described:
    """`describe`, once. Two runs may share the folder, so a file is there whole or not at all."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{os.getpid()}-{path.name}")
        np.savez(part, *describe(images, model, domain))
        part.replace(path)
    with np.load(path) as stored:
        return Described(*(stored[f"arr_{i}"] for i in range(len(stored.files))))


class Pairs(NamedTuple):
    """Pairs of pictures near enough for a hash rule. Shape: each (n,)."""

    query: NDArray[np.intp]
    distance: NDArray[np.int16]
    colour: NDArray[np.int16]
    quality: NDArray[np.int16]

    def only(self, keep: NDArray[np.bool_]) -> "Pairs":
        """The pairs marked in `keep`."""
        return Pairs(self.query[keep], self.distance[keep], self.colour[keep], self.quality[keep])

    def fired(self, distance: int, colour: int, quality: int) -> NDArray[np.intp]:
        """The queries for which the rule fires."""
        fires = (self.distance <= distance) & (self.colour <= colour) & (self.quality >= quality)
        return np.unique(self.query[fires])


def near_pairs(queries: Described, gallery: Described, allowed: NDArray[np.bool_]) -> Pairs:
    """Allowed pairs within MAX_DISTANCE. Shape: allowed (n, m)."""
    distance = distances(queries, gallery)
    q, g = np.nonzero((distance <= MAX_DISTANCE) & allowed)
    return Pairs(
        q,
        distance[q, g],
        np.abs(queries.colour[q] - gallery.colour[g]).max(axis=1, initial=0),
        np.minimum(queries.quality[q], gallery.quality[g]),
    )


def rate(hits: int, n: int) -> dict[str, float | int]:
    """A share with its 95 % Wilson interval."""
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (float(x / (1 + z * z / n)) for x in (centre - half, centre + half))
    return {"hits": hits, "n": n, "rate": round(p, 5), "low": round(max(0.0, low), 5), "high": round(high, 5)}


def choose_hash_rule(false: Pairs, copies: dict[str, Pairs], allowed: int) -> HashRule:
    """Distance, colour and quality with the best recall on plain copies among rules that, even with MARGIN added, fire
    falsely at most `allowed` times; of equals the strictest.
    """
    best, rule = -1, HashRule(0, 0, 100)
    for quality in sorted(QUALITIES, reverse=True):
        for distance in range(0, MAX_DISTANCE - MARGIN[0] + 1, 2):
            for colour in range(0, MAX_COLOUR + 1, 2):
                if len(false.fired(distance + MARGIN[0], colour + MARGIN[1], quality)) > allowed:
                    break
                found = sum(len(copies[edit].fired(distance, colour, quality)) for edit in PLAIN_COPIES)
                if found > best:
                    best, rule = found, HashRule(distance, colour, quality)
    return rule


def same_thing(photos: list[Photo]) -> NDArray[np.bool_]:
    """Pairs that are genuine duplicates by what is known of them, not by how they look: the same file (the shop sells
    some things under two product codes), or one product in one colour. Never counted as false. Shape: (n, n).
    """
    file = np.array(_files(photos))
    product = np.array([f"{photo.group}/{photo.colour}" for photo in photos])
    return np.asarray((file[:, None] == file) | (product[:, None] == product))


def products_half(groups: Iterable[str]) -> NDArray[np.bool_]:
    """True for the half of the products that chooses; all photos of a product fall on one side."""
    return np.array([zlib.crc32(group.encode()) % 2 == 0 for group in groups])


def calibrate(
    data: Path, model: Path, cache: Path, seed: int, leave_out: int = 0
) -> tuple[dict[str, object], Calibration]:
    """Measure, choose, report: the record, and the thresholds in it."""
    version = encoder_version(model)
    network = session(model)
    rng = np.random.default_rng(seed)
    work = cache / f"{version}-{seed}"
    shop = hm(data)
    shop = [shop[i] for i in sorted(rng.permutation(len(shop))[:GALLERY])]
    gallery = cached(work / "gallery.npz", (load(photo.path) for photo in shop), network, "catalog")
    groups, chooses = np.array([photo.group for photo in shop]), products_half(photo.group for photo in shop)
    same = same_thing(shop)
    strangers = {}
    for name, other in (("clothing", clothing(data)), ("myntra", myntra(data))):
        some = [other[i] for i in rng.permutation(len(other))[:STRANGERS]]
        described = cached(work / f"{name}.npz", (load(photo.path) for photo in some), network)
        strangers[name] = described.asking(leave_out)
    originals = np.sort(rng.permutation(len(shop))[:COPIES])
    own = np.arange(len(shop)) == originals[:, None]
    copies = {}
    for edit, apply in EDITS.items():
        generator = np.random.default_rng((seed, zlib.crc32(edit.encode())))
        images = (apply(load(shop[i].path), generator) for i in originals)
        copies[edit] = cached(work / f"copies-{edit}.npz", images, network).asking(leave_out)

    # The hash rule: unrelated photos and other colourways alike must not fire it.
    false_pairs = near_pairs(gallery, gallery, ~same)
    copy_pairs = {edit: near_pairs(copy, gallery, own) for edit, copy in copies.items()}
    in_half = false_pairs.only(chooses[false_pairs.query])
    half_copies = {edit: pairs.only(chooses[originals[pairs.query]]) for edit, pairs in copy_pairs.items()}
    rule = choose_hash_rule(in_half, half_copies, allowed=0)
    # The similarity: of all products, one negative each. The rule is reported apart.
    asking = gallery.asking(leave_out)
    near = nearest_products(asking, gallery, groups.tolist(), _files(shop), [""] * len(shop), None, seed)
    made = thresholds(near.negatives, FALSE_RATE)
    threshold = made.at(len(shop)).pooled.similarity

    reported, reported_copies = ~chooses, ~chooses[originals]
    n_copies = int(reported_copies.sum())
    recall: dict[str, object] = {"exact": {"digest": rate(n_copies, n_copies)}}
    for edit, copy in copies.items():
        score = pair_scores(copy, gallery.at(originals), None)
        by_vector = score >= threshold
        by_hash = np.isin(np.arange(len(originals)), copy_pairs[edit].fired(*rule))
        recall[edit] = {
            "vector": rate(int(by_vector[reported_copies].sum()), n_copies),
            "hash": rate(int(by_hash[reported_copies].sum()), n_copies),
            "either": rate(int((by_vector | by_hash)[reported_copies].sum()), n_copies),
            "cosine_percentiles_1_10_50": np.percentile(score, (1, 10, 50)).round(4).tolist(),
        }
    fired = false_pairs.fired(*rule)
    false: dict[str, object] = {
        **crosswise(near),
        "other_products_and_colourways_hash": rate(int(reported[fired].sum()), int(reported.sum())),
    }
    for name, queries in strangers.items():
        best = similarity(queries, gallery).max(axis=1)
        every = np.ones((len(best), len(shop)), dtype=bool)
        false[f"{name}_vector"] = rate(int((best >= threshold).sum()), len(best))
        false[f"{name}_hash"] = rate(len(near_pairs(queries, gallery, every).fired(*rule)), len(best))
    colourways = np.where((groups[:, None] == groups) & ~same, similarity(asking, gallery), -1).max(axis=1)
    has_colourway = (colourways > -1) & reported
    false["colourways_vector"] = rate(int((colourways[has_colourway] >= threshold).sum()), int(has_colourway.sum()))
    record = {
        "encoder_version": version,
        "similarity": made.buckets[0].pooled.similarity,
        "steps": steps(made),
        "hash_distance": rule.distance,
        "hash_colour": rule.colour,
        "hash_quality": rule.quality,
        "leave_out": leave_out,
        "chosen": f"at most {FALSE_RATE:.1%} of {len(near.names)} unrelated products reach the similarity (95 %) and "
        f"none of half of them fires the hash rule, in a gallery of {len(shop)}. Below, other products are counted at "
        "what the other half would have chosen; copies are of the half that had no say in the hash rule, at the "
        "similarity there",
        "similarity_there": threshold,
        "buckets": [{"rows": bucket.rows, "end": bucket.end, **bucket.pooled._asdict()} for bucket in made.buckets],
        "recall_of_copies": recall,
        "false_duplicates": false,
        "command": "python -m encoders.calibrate_default",
        "seed": seed,
        "data_sha256": content_hash(photo.path for photo in shop),
    }
    return record, made


def _files(photos: list[Photo]) -> list[str]:
    return [hashlib.sha256(photo.path.read_bytes()).hexdigest() for photo in photos]


def _some(negatives: Negatives, which: NDArray[np.bool_]) -> Negatives:
    return Negatives(negatives.sizes, negatives.scores[:, which], negatives.category[which])


def crosswise(near: Neighbours) -> dict[str, object]:
    """How often the nearest other product reaches a threshold that it had no part in choosing, the other half's for as
    many rows as were searched: in the whole gallery, and in each part of it."""
    first, sizes = products_half(near.names), near.negatives.sizes
    reached = np.zeros(len(sizes), np.intp)
    for half in (first, ~first):
        chosen, asked = thresholds(_some(near.negatives, half), FALSE_RATE), _some(near.negatives, ~half)
        limits = np.array([[chosen.at(size).pooled.similarity] for size in sizes])
        reached += (asked.scores >= limits).sum(axis=1)
    rates = [rate(int(hits), len(first)) for hits in reached]
    percentiles = np.percentile(near.negatives.scores[-1], (50, 90, 99, 99.5, 100)).astype(float).round(4).tolist()
    return {
        "other_products_vector": rates[-1],
        "other_products_by_rows": [{"rows": size, **one} for size, one in zip(sizes, rates, strict=True)],
        "nearest_other_product_percentiles_50_90_99_99.5_100": percentiles,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Choose the default thresholds.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds hm/, clothing/ and myntra/")
    parser.add_argument("--out", type=Path, required=True, help="where the record goes")
    parser.add_argument("--policy", type=Path, help="where the policy goes, such as streams/decide/policy.toml")
    parser.add_argument("--model", type=Path, default=Path("triton_models/design_encoder/1/model.onnx"))
    parser.add_argument("--cache", type=Path, default=Path(".work/calibrate"), help="folder for features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", type=int, default=0, help="numbers of a design's vector that are not compared")
    arguments = parser.parse_args()
    record, made = calibrate(arguments.data, arguments.model, arguments.cache, arguments.seed, arguments.leave_out)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.policy:
        arguments.policy.write_text(policy(record, made, arguments.out))
    print(json.dumps(record, indent=2))


def policy(record: dict[str, Any], made: Calibration, stored: Path) -> str:
    """The policy file. stored: where the record is; the file names it from the repository's root."""
    rule = HashRule(*(record[f"hash_{name}"] for name in HashRule._fields))
    where = Path(os.path.relpath(stored.resolve(), Path(__file__).resolve().parents[1])).as_posix()
    kept = {name: record[name] for name in ("encoder_version", "chosen", "command", "seed", "data_sha256")}
    return render(made, Rest(rule, leave_out=record["leave_out"]), {**kept, "file": where})


if __name__ == "__main__":
    main()
