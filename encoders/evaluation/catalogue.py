"""Which suites there are: a name, what it needs, and how it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from encoders.evaluation import (
    alterations,
    ccp,
    edits,
    hubs,
    prints,
    recolour,
    scenes,
    shots,
    sizes,
    tryon,
    unrelated,
)
from encoders.evaluation.sources import Sources
from encoders.evaluation.suites import Picture, Suite


@dataclass(frozen=True, slots=True)
class Entry:
    """A suite that can be made. `needs`: folders of the photo sets; none for synthetic garments. `entries`: of a
    gallery that is filled with distractors."""

    name: str
    needs: tuple[str, ...]
    make: Callable[[Sources], Suite]
    entries: int = 0

    def wanted(self, patterns: Sequence[str], sources: Sources) -> bool:
        """Whether it was asked for (by no pattern: always), its pictures are there and it is not too large."""
        asked = not patterns or any(_fits(self.name, pattern) for pattern in patterns)
        return asked and sources.has(*self.needs) and self.entries <= sources.limits.largest


def _of_hm(make: Callable[..., Suite]) -> Callable[[Sources], Suite]:
    return lambda sources: make(sources, "hm", sources.hm, "packshots")


def _of_hm_clothes(make: Callable[..., Suite]) -> Callable[[Sources], Suite]:
    return lambda sources: make(sources, "hm", sources.hm_clothes, "packshots")


def _of_clothing(make: Callable[..., Suite]) -> Callable[[Sources], Suite]:
    return lambda sources: make(sources, "clothing", sources.clothing, "home photos")


def _of_garments(make: Callable[..., Suite]) -> Callable[[Sources], Suite]:
    return lambda sources: make(sources, "synthetic", sources.garments, "synthetic garments")


def _hm_scenes(sources: Sources) -> Suite:
    return scenes.scenes(sources, "hm", sources.hm_clothes, _photo_backgrounds(sources), "packshots")


def _synthetic_scenes(sources: Sources) -> Suite:
    return scenes.scenes(sources, "synthetic", sources.garments, sources.grounds, "synthetic garments")


def _photo_backgrounds(sources: Sources) -> list[Picture]:
    return [*(item.picture for item in sources.clothing), *sources.ccp_photos.values()]


_SHOP: Final = ("hm",)
_STREET: Final = ("ccp",)
_HOME: Final = ("clothing",)

_ALL: Final = ("hm", "clothing", "ccp", "myntra")

SUITES: Final[Sequence[Entry]] = (
    Entry("edits/hm", _SHOP, _of_hm(edits.edits_of)),
    Entry("edits/clothing", _HOME, _of_clothing(edits.edits_of)),
    Entry("edits/synthetic", (), _of_garments(edits.edits_of)),
    Entry("thumbnails/hm", _SHOP, _of_hm(edits.thumbnails_of)),
    Entry("thumbnails/clothing", _HOME, _of_clothing(edits.thumbnails_of)),
    Entry("cut-outs/garments", _STREET, ccp.cut_outs),
    Entry("cut-outs/accessories", _STREET, ccp.accessories),
    Entry("try-on/ccp", _STREET, tryon.try_on),
    Entry("scenes/hm", (*_SHOP, *_HOME, *_STREET), _hm_scenes),
    Entry("scenes/synthetic", (), _synthetic_scenes),
    Entry("shots/synthetic", (), shots.shots),
    Entry("designs/synthetic", (), shots.designs),
    Entry("alterations/hm", _SHOP, _of_hm_clothes(alterations.curves)),
    Entry("alterations/synthetic", (), _of_garments(alterations.curves)),
    Entry("unrelated/hm", _SHOP, _of_hm(unrelated.neighbours)),
    Entry("unrelated/synthetic", (), _of_garments(unrelated.neighbours)),
    Entry("silhouettes/hm", _SHOP, _of_hm_clothes(unrelated.silhouettes)),
    Entry("colourways/hm", _SHOP, _of_hm(recolour.colourways)),
    Entry("colourways/synthetic", (), _of_garments(recolour.colourways)),
    Entry("recolour/hm", _SHOP, _of_hm_clothes(recolour.twins)),
    Entry("recolour/synthetic", (), _of_garments(recolour.twins)),
    Entry("prints/hm", _SHOP, _of_hm_clothes(prints.swaps)),
    Entry("prints/synthetic", (), _of_garments(prints.swaps)),
    Entry("one-print/hm", _SHOP, _of_hm_clothes(prints.shared)),
    Entry("one-print/synthetic", (), _of_garments(prints.shared)),
    Entry("hubs/hm", _SHOP, _of_hm(hubs.hubs)),
    Entry("hubs/synthetic", (), _of_garments(hubs.hubs)),
    *(
        Entry(f"{name}@{entries}", _ALL, sizes.at_size(make, entries), entries)
        for entries in sizes.SIZES
        for name, make in (("edits/hm", _of_hm(edits.edits_of)), ("cut-outs/garments", ccp.cut_outs),
                           ("scenes/hm", _hm_scenes))
    ),
)  # fmt: skip


def chosen(patterns: Sequence[str], sources: Sources) -> list[Entry]:
    """The suites whose name matches one of the patterns (`edits`, `edits/hm`, `*/synthetic`; none: all of them) and
    that can be made. ValueError for a pattern that fits no suite."""
    for pattern in patterns:
        if not any(_fits(entry.name, pattern) for entry in SUITES):
            names = ", ".join(entry.name for entry in SUITES)
            raise ValueError(f"no suite is called {pattern!r}; there are {names}")
    return [entry for entry in SUITES if entry.wanted(patterns, sources)]


def calibration(sources: Sources) -> Suite:
    """The unrelated products that choose a threshold: packshots where there are some, else synthetic garments."""
    if sources.has(*_SHOP):
        return _of_hm(partial(unrelated.neighbours, choosing=True))(sources)
    return _of_garments(partial(unrelated.neighbours, choosing=True))(sources)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.split("/", maxsplit=1)[0] == pattern.rstrip("/")
