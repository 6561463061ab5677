"""What is known of a picture by its bytes: the least recently used pictures are forgotten."""

from collections import OrderedDict

from encoders.preprocess import Domain
from streams import metrics
from streams.events import Picture

CacheKey = tuple[bytes, Domain, str]
"""Digest, domain and encoder version."""


class PictureCache:
    """A bounded map from digest, domain and encoder version to what the log keeps of a picture."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._pictures: OrderedDict[CacheKey, Picture] = OrderedDict()

    def get(self, key: CacheKey) -> Picture | None:
        """The picture, if it was seen not too long ago."""
        picture = self._pictures.get(key)
        metrics.cache_lookups.labels("miss" if picture is None else "hit").inc()
        if picture is not None:
            self._pictures.move_to_end(key)
        return picture

    def put(self, key: CacheKey, picture: Picture) -> None:
        """Remember a picture."""
        self._pictures[key] = picture
        self._pictures.move_to_end(key)
        while len(self._pictures) > self._entries:
            self._pictures.popitem(last=False)
