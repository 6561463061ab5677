"""A file that a command writes: all of it, or none."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from streams.errors import Fatal


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which stands at `target` when the block has ended well; otherwise what was there stays. A
    reader never sees half a file. Fatal when it cannot be written."""
    try:
        if target.exists() and not target.is_file():  # a pipe or a device is written to, not replaced
            with target.open("wb") as file:
                yield file
            return
        real = target.resolve()  # a link is followed
        with tempfile.NamedTemporaryFile(dir=real.parent, prefix=f".{real.name}.", delete=False) as file:
            try:
                yield file
                file.flush()
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(file.name, 0o666 & ~mask)
                os.replace(file.name, real)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise Fatal(f"cannot write {target}: {error.strerror or error}") from error
