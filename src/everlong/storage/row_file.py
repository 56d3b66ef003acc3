"""Rows of the files that storage/disk.py writes: overwritten where nobody needs them, or copied into a new file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from everlong.errors import SaveError
from everlong.storage.extent import digest_width

_STEP_BYTES = 2**20


def wipe(path: Path, row_bytes: int, places: Collection[int]) -> None:
    """Overwrite the rows at `places` of a file of blocks and of its digests with zeros, and wait for the disk."""
    if not places or not path.exists():
        return
    for file, width in ((path, row_bytes), (path.with_suffix(".digests"), digest_width(path, row_bytes))):
        spans = [(n * width, width) for n in sorted(places)]
        if width and file.exists():
            overwrite(file, spans)


def overwrite(path: Path, spans: Iterable[tuple[int, int]], word: bytes = b"\0") -> None:
    """Fill the spans (offset, bytes) of a file with `word` over and over; what lies behind its end is left out."""
    try:
        with path.open("r+b") as file:
            # Never longer than it is: what was not written yet holds nothing to be overwritten.
            size = os.fstat(file.fileno()).st_size
            for start, length in spans:
                file.seek(start)
                left = max(0, min(length, size - start))
                while left > 0:
                    step = min(left, _STEP_BYTES)
                    file.write((word * (step // len(word) + 1))[:step])
                    left -= step
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SaveError(
            f"{path}: {error.strerror or error}; not overwritten yet: make it writable, try again"
        ) from error


def copy_rows(path: Path, row_bytes: int, places: Iterable[int], target: Path) -> None:
    """Write the rows at `places`, one behind the other, to `target` and its digests."""
    places = list(places)
    width = digest_width(path, row_bytes)
    try:
        for old, new, size in (
            (path, target, row_bytes),
            (path.with_suffix(".digests"), target.with_suffix(".digests"), width),
        ):
            with old.open("rb") as source, new.open("xb") as copy:
                new.chmod(0o600)
                for place in places:
                    source.seek(place * size)
                    copy.write(source.read(size))
                copy.flush()
                os.fsync(copy.fileno())
    except OSError as error:
        for new in (target, target.with_suffix(".digests")):
            new.unlink(missing_ok=True)
        raise SaveError(f"{target}: {error.strerror or error}; nothing was changed: make room and try again") from error
