"""An adaptation from pictures to a kept or rejected encoder: the order of things, and what is written where.

OUT/triton_models/design_encoder/1/model.onnx   the new version, canary.json beside it: a Triton model repository
OUT/record.json, OUT/report.json                how it was made; the figures of both models
OUT/rejected/...                                the same of a version that is not kept
OUT/work/                                       views, checkpoints, vectors: what a run that goes on needs
"""

import json
import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.adaptation import candidate, vectors
from encoders.adaptation.figures import Comparison, compare, figures, nearest_strangers, threshold
from encoders.adaptation.pictures import described
from encoders.adaptation.plan import HELD_BACK, Plan, data_hash, plan
from encoders.adaptation.request import Outcome, Request, Tick
from encoders.backbone import NETWORK_PX
from encoders.data import content_hash
from encoders.described import LATTICE
from encoders.export import OPSET
from encoders.preprocess import encoder_version
from encoders.training.export import PACKAGES
from encoders.training.network import COLOUR_SHARE, SERVED_PX, SPLIT
from encoders.training.restore import restored
from encoders.training.views import CUT_OUT, EDITED, IN_SCENE, RECOLOURED, REPRINTED

COPIES: Final = {"edited": EDITED, "cut out": CUT_OUT, "in another scene": IN_SCENE}
NEAR_MISSES: Final = {"dyed": RECOLOURED, "reprinted": REPRINTED}
MODEL: Final = Path("triton_models/design_encoder/1/model.onnx")
"""Below OUT."""

_CODE: Final = Path(__file__).resolve().parents[1]


class OtherWork(ValueError):
    """The folder holds what another request began."""


def adapt(request: Request, tick: Tick) -> Outcome:
    """All of it, or the rest of what was begun; the report is left to `write_report`.

    Raises: FileNotFoundError and ValueError for a base that is no encoder of two blocks; TooFewPictures; OtherWork.
    """
    base = restored(request.base)
    chosen = plan(request.pictures, request.things, request.seed)
    _same_work(request, chosen)
    made = request.work / "candidate" / MODEL.relative_to("triton_models")
    new = candidate.make(request, chosen, base, made, tick)
    comparison = measured(request, chosen, [request.base, made], tick)
    out = request.out if comparison.kept else request.out / "rejected"
    model = _placed(request.base, made, out)
    record = _record(request, chosen, model, new, comparison)
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    trained = {one.digest for one in chosen.trained}
    unseen = [one for one in request.pictures if one.side == "catalog" and one.digest not in trained]
    return Outcome(comparison.kept, model, new, comparison, unseen, _report(request, chosen, comparison))


def measured(request: Request, chosen: Plan, models: list[Path], tick: Tick) -> Comparison:
    """Old model and new one on what was not trained on."""
    work = request.work / "measured"
    gallery = vectors.of_gallery(
        chosen, models, work / "gallery", request.processes, lambda done, total: tick("pictures, measured", done, total)
    )
    made, there = vectors.of_views(
        chosen, models, request.seed, work / "views", request.processes,
        lambda done, total: tick("copies and near misses, measured", done, total),
    )  # fmt: skip
    there = np.array(there)
    found, alike = [], 0
    for place, model in enumerate(models):
        # A model that training has broken may say what is no number; it finds nothing then.
        pictures = described(chosen.gallery, np.nan_to_num(gallery[:, place]))
        nearest, excused = nearest_strangers(pictures, chosen.asked, request.rule)
        limit, alike = threshold(nearest), int(excused.sum())
        similarity = _own(np.nan_to_num(made[:, place]), pictures.vectors[: chosen.asked])
        found.append(figures(encoder_version(model), similarity, there, limit, COPIES, NEAR_MISSES))
    return compare(found[0], found[1], there, alike, COPIES, NEAR_MISSES)


def _own(made: NDArray[np.float32], pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """The score of each made picture and its own one. Shape: (n, 12, dim), (n, dim) -> (n, 12)."""
    similarity: NDArray[np.float32] = np.einsum("nvd,nd->nv", np.rint(made * LATTICE), pictures) / LATTICE**2
    return np.minimum(similarity, 1)


def write_report(outcome: Outcome, out: Path, policy: dict[str, Any]) -> Path:
    """report.json, beside the record. policy: what became of it."""
    path = (out if outcome.kept else out / "rejected") / "report.json"
    path.write_text(json.dumps({**outcome.report, "policy": policy}, indent=2) + "\n")
    return path


def _same_work(request: Request, chosen: Plan) -> None:
    """Nothing is mixed: what was begun with other pictures, another base or other wishes is refused."""
    path = request.work / "request.json"
    asked = {
        "pictures": data_hash(request.pictures), "trained_on": data_hash(chosen.trained),
        "base": encoder_version(request.base), "things": request.things, "steps": request.steps,
        "whole": request.whole, "pace": request.pace, "seed": request.seed,
    }  # fmt: skip
    request.work.mkdir(parents=True, exist_ok=True)
    begun = json.loads(path.read_text()) if path.exists() else asked
    if differs := [name for name in asked if begun.get(name) != asked[name]]:
        raise OtherWork(
            f"{request.work} was begun otherwise ({', '.join(differs)}): name another --out, or delete that folder"
        )
    path.write_text(json.dumps(asked))


def _placed(base: Path, made: Path, out: Path) -> Path:
    """The model, its canary, and what else of the base's Triton repository a server needs."""
    model = out / MODEL
    model.parent.mkdir(parents=True, exist_ok=True)
    for file in (made, made.with_name("canary.json")):
        shutil.copyfile(file, model.with_name(file.name))
    for needed, place in (
        (base.with_name("model.py"), model.parent),
        (base.parents[1] / "config.pbtxt", model.parents[1]),
    ):
        if needed.is_file():
            shutil.copyfile(needed, place / needed.name)
    return model


def _record(request: Request, chosen: Plan, model: Path, version: str, comparison: Comparison) -> dict[str, Any]:
    trained = f"blocks from {SPLIT} on and the head" if request.whole else "the head"
    return {
        "version": version,
        "base": encoder_version(request.base),
        "kept": comparison.kept,
        "recipe": {
            "network": f"EfficientNet-Lite0 at {SERVED_PX} px; {trained} trained at {NETWORK_PX} px, the rest as in the"
            " base",
            "vector": f"[structure | colour], colour {COLOUR_SHARE} of the similarity",
            "domain": "ignored", "opset": OPSET, "training": asdict(candidate.recipe(request)),
            "colour": asdict(candidate.colour_recipe(request)),
        },
        "command": request.command,
        "seed": request.seed,
        "data": {
            "set": "two folders of the user's, without labels", **_pictures(request, chosen),
            "sha256": data_hash(request.pictures), "trained_on_sha256": data_hash(chosen.trained),
            "code_sha256": content_hash([*_CODE.glob("training/*.py"), *_CODE.glob("adaptation/*.py")]),
        },
        "packages": {name: _installed(name) for name in PACKAGES} | {"python": platform.python_version()},
        "bytes": model.stat().st_size,
    }  # fmt: skip


def _installed(package: str) -> str | None:
    try:
        return package_version(package)
    except ModuleNotFoundError:  # PackageNotFoundError: there under another name, such as OpenCV with windows
        return None


def _report(request: Request, chosen: Plan, comparison: Comparison) -> dict[str, Any]:
    return {
        "kept": comparison.kept,
        "rule": "kept when recall of copies rises and false duplicates of near misses do not, each model at the "
        "threshold that at most 1 % of the held-back pictures have a stranger at",
        "pictures": _pictures(request, chosen),
        "models": {"base": comparison.base.as_object(), "new": comparison.new.as_object()},
        "difference": {
            "recall": asdict(comparison.recall), "false_duplicates": asdict(comparison.false_duplicates),
            "intervals": "95 %, pictures resampled",
        },
        "strangers_left_out": {
            "pictures": comparison.alike, "why": "the hash rule calls them and another one the same picture",
        },
    }  # fmt: skip


def _pictures(request: Request, chosen: Plan) -> dict[str, int]:
    """How many of what."""
    return {
        "catalog": sum(one.side == "catalog" for one in request.pictures),
        "designs": sum(one.side == "generated" for one in request.pictures),
        "different": len({one.digest for one in request.pictures}),
        "one_in_so_many_held_back": HELD_BACK,
        "trained_on": len(chosen.trained),
        "catalog_trained_on": sum(one.side == "catalog" for one in chosen.trained),
        "copies_made_of": chosen.asked,
        "searched_among": len(chosen.gallery),
    }
