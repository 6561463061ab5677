"""What the service's checker said of each file that can be used, kept, so that a second run need not look again.

A file that has another size or time is another one. Not for the pictures themselves.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a picture that can be used; see `encoders.adaptation.pictures.Picture`."""

    digest: bytes
    hash: bytes
    quality: int
    colour: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a file cannot be used: a stable word, and a sentence."""

    reason: str
    message: str


class Looked:
    """Looks by path, one line of JSON each, in a file that only grows. Open while the context is."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Look | Broken] = {}
        if file.exists():
            for line in file.read_text("utf-8").splitlines():
                self._read(line)
        self._file = file.open("a", encoding="utf-8")

    def __enter__(self) -> "Looked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, path: Path) -> Look | Broken | None:
        """What was said of it, if it was looked at as it is now."""
        return self._known.get(_key(path))

    def put(self, path: Path, look: Look | Broken) -> None:
        """Keep what was said. Of a file that cannot be used for this run only: limits may be other ones tomorrow."""
        key = _key(path)
        self._known[key] = look
        if isinstance(look, Look):
            said = [look.digest.hex(), look.hash.hex(), look.quality, look.colour.hex()]
            self._file.write(json.dumps([key, said]) + "\n")
            self._file.flush()

    def _read(self, line: str) -> None:
        try:
            key, (digest, hashed, quality, colour) = json.loads(line)
            look = Look(bytes.fromhex(digest), bytes.fromhex(hashed), quality, bytes.fromhex(colour))
        except ValueError:  # the last line of a run that was killed
            return
        self._known[key] = look


def _key(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} absent"
    return f"{path} {status.st_size} {status.st_mtime_ns}"
