"""What `design-dedup evaluate` and `python -m encoders.evaluation` do: from names and paths to results.

Not for parsing a command line nor for printing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from encoders.embedding import Embedder, VectorCache
from encoders.evaluation import catalogue, folder
from encoders.evaluation.library import Model, Tick
from encoders.evaluation.run import Result, evaluate
from encoders.evaluation.sources import FULL, QUICK, Sources
from encoders.evaluation.suites import Suite

SHIPPED: Final = Path(__file__).resolve().parents[2] / "triton_models" / "design_encoder" / "1" / "model.onnx"
"""The model of this repository."""


@dataclass(frozen=True, slots=True)
class Named:
    """A model file under a name. `threshold`: from which similarity on it calls a duplicate; None: chosen from
    unrelated products."""

    name: str
    path: Path
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to evaluate. `suites`: names, patterns and folders of one's own; none: everything there are pictures for."""

    models: Sequence[Named]
    suites: Sequence[str] = ()
    data: Path | None = None
    quick: bool = False
    seed: int = 0
    cache: Path | None = None


def named(text: str) -> tuple[str, Path]:
    """What NAME=PATH says; a path alone is its own name."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals else (text, Path(text))


def measure(request: Request, tick: Tick) -> list[Result]:
    """All results, suite by suite; `tick` hears of progress.

    ValueError for what makes no sense (two models of one name, a suite that is not there, a folder that is no suite),
    FileNotFoundError for a model or a photo set that is missing.
    """
    names = [model.name for model in request.models]
    if len(set(names)) < len(names):
        raise ValueError(f"two models have the same name: {', '.join(names)}")
    if request.data is not None and not request.data.is_dir():
        raise FileNotFoundError(f"there is no folder {request.data}")
    sources = Sources(request.data, QUICK if request.quick else FULL, request.seed)
    own = [Path(name) for name in request.suites if Path(name).is_dir()]
    patterns = [name for name in request.suites if not Path(name).is_dir()]
    suites: list[Suite | catalogue.Entry] = [folder.read(path) for path in own]
    if patterns or not own:
        suites += catalogue.chosen(patterns, sources)
    if not suites:
        raise ValueError("these suites need the photo sets: --data DIR")
    cache = VectorCache(request.cache) if request.cache else None
    models = [Model(model.name, Embedder(model.path, cache), model.threshold) for model in request.models]
    try:
        return list(evaluate(models, _made(suites, sources), catalogue.calibration(sources), tick))
    finally:
        if cache is not None:
            cache.close()


def _made(suites: Sequence[Suite | catalogue.Entry], sources: Sources) -> Iterator[Suite]:
    for suite in suites:
        yield suite if isinstance(suite, Suite) else suite.make(sources)
