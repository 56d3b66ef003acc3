"""Files of blocks written anew without the rows that nobody needs."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everlong.errors import SessionError
from everlong.library import adopt as adopting
from everlong.library import erase as erasing
from everlong.library import kept_text
from everlong.library.catalog import Catalog, SessionRecord
from everlong.storage.extent import Volume, digest_width
from everlong.storage.row_file import copy_rows, overwrite

if TYPE_CHECKING:
    import tarfile


@dataclass(frozen=True)
class Compacted:
    """Bytes of a session's block files before and after, and how many files were left alone because forks need them."""

    before_bytes: int
    after_bytes: int
    left_alone: int


def compact(catalog: Catalog, name: str) -> Compacted:
    """Rewrite the files of a session without dropped blocks; the bytes before and after."""
    with catalog.locked(catalog.entry(name)):
        done = _compacted(catalog, catalog.entry(name))
        for entry in catalog.entries():
            adopting.note_down(catalog, entry.name)
        return done


def _compacted(catalog: Catalog, entry: SessionRecord) -> Compacted:
    """Write the session's files anew without its dropped blocks; new files first, then the names, then the old go."""
    erasing.erase(catalog, entry)
    before = _bytes(catalog, entry)
    left = 0
    moved = {}
    locked = set[str]()
    with ExitStack() as held:
        for path in sorted({v.path for v in catalog.volumes(entry)}):
            free, row_bytes = _unneeded(catalog, path)
            sharers = _sharers(catalog, path, entry)
            left += bool(_dropped_places(catalog, entry, path) - free)
            if free and _lock_all(catalog, sharers, locked, held):
                moved[path] = _rewritten(catalog, path, [entry, *sharers], free, row_bytes)
        _name(catalog, {path: new for path, (new, _) in moved.items()}, {p: at for p, (_, at) in moved.items()})
        # The old files go last: a crash before leaves files that nobody names, never names without a file.
        for path in moved:
            path.unlink(missing_ok=True)
            path.with_suffix(".digests").unlink(missing_ok=True)
    erasing.remove_states(catalog, entry)
    return Compacted(before, _bytes(catalog, entry), left)


def _unneeded(catalog: Catalog, path: Path) -> tuple[set[int], int]:
    with catalog.database() as db:
        return erasing.unneeded(db, path.name)


def _sharers(catalog: Catalog, path: Path, entry: SessionRecord) -> list[SessionRecord]:
    """The other sessions with blocks in a file."""
    others = [other for other in catalog.entries() if other.id != entry.id]
    return [other for other in others if any(v.path == path for v in catalog.volumes(other))]


def _lock_all(catalog: Catalog, entries: list[SessionRecord], locked: set[str], held: ExitStack) -> bool:
    """Whether no other process writes to one of these sessions; none does then until `held` ends."""
    try:
        for other in entries:
            if other.id not in locked:
                held.enter_context(catalog.locked(other))
                locked.add(other.id)  # flock would refuse this very process a second time
    except SessionError:
        return False
    return True


def _places(volume: Volume) -> range:
    return range(volume.at, volume.at + volume.end - volume.first)


def _dropped_places(catalog: Catalog, entry: SessionRecord, path: Path) -> set[int]:
    """The rows of a file that the session itself has dropped."""
    dropped = kept_text.dropped(catalog, entry)
    mine = [v for v in catalog.volumes(entry) if v.path == path]
    return {v.at + n - v.first for v in mine for n in dropped if v.first <= n < v.end}


def _rewritten(
    catalog: Catalog, path: Path, entries: list[SessionRecord], free: Collection[int], row_bytes: int
) -> tuple[Path, dict[int, int]]:
    """A new file with the rows that one of these sessions has and that are not `free`, and where each row went."""
    rows = {n for e in entries for v in catalog.volumes(e) if v.path == path for n in _places(v)}
    kept = sorted(rows.difference(free))
    target = path.with_name(f"{secrets.token_hex(8)}.blocks")
    copy_rows(path, row_bytes, kept, target)
    return target, {place: n for n, place in enumerate(kept)}


def _name(catalog: Catalog, files: dict[Path, Path], places: dict[Path, dict[int, int]]) -> None:
    """Let all sessions have their blocks in the new files, at once; what an older checkpoint needs is given up."""
    found = {e.id: catalog.volumes(e) for e in catalog.entries()}
    with catalog.database() as db:
        for session, volumes in found.items():
            if not any(v.path in files for v in volumes):
                continue
            new = [
                part for v in volumes for part in _runs(v, v is volumes[-1], files.get(v.path), places.get(v.path, {}))
            ]
            db.execute("DELETE FROM states WHERE session = ?", (session,))
            catalog.keep_volumes(db, session, new)


def _runs(volume: Volume, last: bool, target: Path | None, places: dict[int, int]) -> list[Volume]:
    """The parts of a volume in its new file; behind those of the last one there is room for more."""
    if target is None:
        return [volume]
    runs: list[Volume] = []
    for n, old in enumerate(_places(volume), volume.first):
        at = places.get(old)
        if at is not None and runs and runs[-1].end == n:
            runs[-1] = Volume(target, runs[-1].first, n + 1, runs[-1].at)
        elif at is not None:
            runs.append(Volume(target, n, n + 1, at))
    # An empty run: it names the file, and the place in it, where the next block goes.
    if last and (not runs or runs[-1].end < volume.end):
        runs.append(Volume(target, volume.end, volume.end, len(places)))
    return runs


def _bytes(catalog: Catalog, entry: SessionRecord) -> int:
    """Bytes of the files of a session's blocks and digests."""
    files = {file for v in catalog.volumes(entry) for file in (v.path, v.digests)}
    return sum(file.stat().st_size for file in files if file.exists())


def archive_volumes(catalog: Catalog, entry: SessionRecord, archive: tarfile.TarFile, draft: Path) -> None:
    """Add the session's files of blocks to an archive, without the bytes of what it has dropped."""
    for path in sorted({v.path for v in catalog.volumes(entry)}):
        dropped = _dropped_places(catalog, entry, path)
        for file in (path, path.with_suffix(".digests")):
            if not file.exists():
                continue
            source = file if not dropped else draft.with_suffix(file.suffix)
            if dropped:
                shutil.copyfile(file, source)
                width = entry.row_bytes if file == path else digest_width(path, entry.row_bytes)
                overwrite(source, [(n * width, width) for n in dropped])
            archive.add(source, f"blocks/{file.name}")
            if dropped:
                source.unlink()
