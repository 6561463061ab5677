"""The same questions to larger galleries: what is asked for, and distractors up to a round number."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from encoders.evaluation.sources import Sources
from encoders.evaluation.suites import Picture, Query, Suite

SIZES: Final = (1_000, 5_000, 15_000)


def enlarged(suite: Suite, distractors: Sequence[Picture], entries: int) -> Suite:
    """The suite with a gallery of so many entries: all that its queries speak of, then the first of the distractors.

    ValueError when there are too few.
    """
    spoken = sorted({p for query in suite.queries for p in (*query.truth, *query.rivals, *query.ignored)})
    place = {old: new for new, old in enumerate(spoken)}
    gallery = [suite.gallery[p] for p in spoken]
    known = {picture.name for picture in gallery}
    gallery += [picture for picture in distractors if picture.name not in known][: max(0, entries - len(gallery))]
    if len(gallery) != entries:
        raise ValueError(f"{suite.name}: a gallery of {len(gallery)}, not of {entries} pictures")

    def moved(places: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(place[p] for p in places)

    queries = [
        replace(q, truth=moved(q.truth), rivals=moved(q.rivals), ignored=moved(q.ignored)) for q in suite.queries
    ]
    return replace(suite, name=f"{suite.name}@{entries}", gallery=gallery, queries=queries)


def distractors(sources: Sources) -> list[Picture]:
    """Pictures of all sets in a random order, none with the file of a packshot that suites ask for but that packshot
    itself.

    Home photos of the fitted senders are among them: as distractors they give nothing away.
    """
    known = {item.digest for item in sources.hm}
    pool = [item.picture for item in sources.hm]
    for item in (*sources.all_hm, *sources.all_clothing, *sources.myntra):
        if item.digest not in known:
            known.add(item.digest)
            pool.append(item.picture)
    return sources.shuffled([*pool, *sources.ccp_photos.values()], "distractors")


def at_size(make: Callable[[Sources], Suite], entries: int) -> Callable[[Sources], Suite]:
    """How a suite is made with a gallery of so many entries; of a long one a quarter of each kind is asked."""

    def made(sources: Sources) -> Suite:
        suite = make(sources)
        if len(suite.queries) > sources.limits.queries:
            suite = replace(suite, queries=first_of_each(suite.queries, max(1, sources.limits.of_a_kind // 4)))
        return enlarged(suite, distractors(sources), entries)

    return made


def first_of_each(queries: Sequence[Query], n: int) -> list[Query]:
    """At most n queries of each kind, in their order."""
    count: dict[str, int] = {}
    kept = []
    for query in queries:
        count[query.kind] = count.get(query.kind, 0) + 1
        if count[query.kind] <= n:
            kept.append(query)
    return kept
