"""All hostile events: those of `events` and one for every hostile file and reference."""

from collections.abc import Iterable

from streams.embed.images import ImageLimits
from tests.faults.bad_input import events, gifs, jpegs, others, pngs
from tests.faults.bad_input.case import ACCEPTED, Case
from tests.faults.references.spellings import disguised

_NO_PICTURE = frozenset({"not_an_image", "unsupported_format", "empty_image"})
_BROKEN = frozenset({"broken_image", "not_an_image", "unsupported_format", "empty_image", "too_many_pixels"})
_COSTLY = _BROKEN | {"decode_timeout", "too_large"}


def corpus(limits: ImageLimits, truncations: int = 44) -> list[Case]:
    """Several hundred; the costly ones are made as large as the limits let them be."""
    room = limits.max_bytes - 20_000
    side = int(limits.max_pixels**0.5) - 8
    return [
        *events.fields(),
        *events.values(),
        *events.names(),
        # Some formats hold their last bytes for decoration, and damage may fall on what nobody looks at.
        *_files("cut", others.truncated(truncations).items(), _BROKEN | ACCEPTED),
        *_files("damaged", others.damaged().items(), _BROKEN | ACCEPTED),
        *_files("JPEG", jpegs.broken().items(), _BROKEN | ACCEPTED),
        *_files("PNG", pngs.broken().items(), _BROKEN | ACCEPTED),
        *_files("GIF", gifs.broken().items(), _BROKEN | ACCEPTED),
        *_files("WebP", others.webps(room).items(), _COSTLY | ACCEPTED),
        *_files("AVIF", others.avifs(2 * side).items(), _COSTLY | ACCEPTED),
        *_files("JPEG bomb", jpegs.bombs(room, side).items(), _COSTLY | ACCEPTED),
        *_files("PNG bomb", pngs.bombs(room, side).items(), _COSTLY | ACCEPTED),
        *_files("GIF bomb", gifs.bombs(room, side).items(), _COSTLY | ACCEPTED),
        *_files("file", others.no_pictures().items(), _NO_PICTURE),
        *_chosen("polyglot", others.two_at_once(), _NO_PICTURE | {"broken_image"}),
        *_chosen("shape", others.shapes(room), frozenset({"too_large"})),
        *references(),
    ]


def _files(group: str, files: Iterable[tuple[str, bytes]], reasons: frozenset[str]) -> list[Case]:
    return [Case(f"{group}: {name}", "design", events.of_file(data), reasons) for name, data in files]


def _chosen(group: str, files: dict[str, tuple[bytes, bool]], reasons: frozenset[str]) -> list[Case]:
    return [
        Case(f"{group}: {name}", "design", events.of_file(data), ACCEPTED if good else reasons)
        for name, (data, good) in files.items()
    ]


def references() -> list[Case]:
    """References that nothing may come of; promise 10 has more of them."""
    refused = frozenset({"bad_uri", "scheme_not_allowed", "address_refused", "unreachable", "file_outside_roots"})
    uris = ["", "x", "file:///etc/passwd", "data:image/png;base64,AAAA", "https://", "https://\u202eh/", "https://h/\n"]
    for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "169.254.169.254", "localhost"):
        uris += [uri.replace("http:", "https:") for uri in disguised(host, 9)]
    return [
        Case(f"reference {number}: {uri[:80]!r}", "item", events.of_reference(uri), refused)
        for number, uri in enumerate(dict.fromkeys(uris))
    ]
