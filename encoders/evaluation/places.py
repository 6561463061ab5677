"""Where the pictures of a product stand in a gallery, and so what a query made from one of them asks."""

from collections.abc import Sequence
from typing import Final

from encoders.evaluation.sources import Item
from encoders.evaluation.suites import Picture, Query

_UNSURE: Final = frozenset({"Not sure", "Other", "Skip"})


class Places:
    """A gallery of items, by product and by file."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._by_group: dict[str, list[int]] = {}
        self._by_digest: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            self._by_group.setdefault(item.group, []).append(place)
            self._by_digest.setdefault(item.digest, []).append(place)

    def query(self, picture: Picture, item: Item, kind: str = "", rivals: tuple[int, ...] = ()) -> Query:
        """A picture that shows what an item shows.

        Truth: the item, and the same file under other numbers. Of what may be the same thing in another picture nothing
        is claimed, unless it is named among the rivals.
        """
        truth = self._by_digest.get(item.digest, [])
        ignored = [place for place in self.may_be_same(item) if place not in truth and place not in rivals]
        return Query(picture, item.group, kind, tuple(truth), rivals, tuple(ignored))

    def unrelated_query(self, item: Item, kind: str) -> Query:
        """An item as if what it shows were not in the gallery."""
        known = {*self.product(item), *self._by_digest.get(item.digest, [])}
        return Query(item.picture, item.group, kind, ignored=tuple(sorted(known)))

    def product(self, item: Item) -> list[int]:
        """All pictures of its product or sender."""
        return self._by_group.get(item.group, [])

    def may_be_same(self, item: Item) -> list[int]:
        """Pictures of its product; of its sender, those of the same label or of one that says nothing."""
        return [place for place in self.product(item) if _may_be_same(item, self._items[place])]


def _may_be_same(a: Item, b: Item) -> bool:
    return a.label == b.label or not _UNSURE.isdisjoint((a.label, b.label))
