"""A kept session as one tar archive: written wholly or not at all, taken in under any name."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from everlong.errors import DamagedError, ForeignError, InputError, SaveError, SessionError
from everlong.session import compacting, recall_files
from everlong.session.schema import FORMAT, TABLES

if TYPE_CHECKING:
    from everlong.session.library import Entry, Library


def export(library: Library, entry: Entry, file: Path, overwrite: bool) -> None:
    """Write a session to one tar archive; wholly or not at all."""
    if file.is_dir():
        raise SaveError(f"{file}: is a folder; give the name of a file in it")
    if file.exists() and not overwrite:
        raise SaveError(f"{file}: exists; give another place, or say that it may be written over")
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with library.database() as db:
        tables = {
            table: db.execute(f"SELECT * FROM {table} WHERE {key} = ?", (entry.id,)).fetchall()
            for table, key in TABLES.items()
        }
    try:
        with tarfile.open(draft, "w") as archive:
            facts = json.dumps({"format": FORMAT, "tables": tables}).encode()
            info = tarfile.TarInfo("session.json")
            info.size = len(facts)
            archive.addfile(info, io.BytesIO(facts))
            for path in (library.place(entry) / part for part in ("ids", entry.state) if part):
                archive.add(path, f"session/{path.name}")
            compacting.archive_volumes(library, entry, archive, draft)
            recall_files.archive(library, entry, archive, draft)
        draft.replace(file)
    except OSError as error:
        raise SaveError(f"{file}: {error.strerror or error}; give another place with room") from error
    finally:
        draft.unlink(missing_ok=True)


def take(library: Library, file: Path, name: str | None) -> str:
    """Put the session of an archive into the library, under its name or another; that name."""
    identity = secrets.token_hex(8)
    folder = library.folder / "sessions" / identity
    try:
        with tarfile.open(file) as archive:
            facts = json.load(archive.extractfile("session.json"))  # pyrefly: ignore
            if facts["format"] != FORMAT:
                raise ForeignError(f"{file}: of format {facts['format']}, expected {FORMAT}")
            name = name or facts["tables"]["sessions"][0][1]
            if library.find(name) is not None:
                raise SessionError(f"session {name!r}: exists already; give another --name")
            files = {row[2]: f"{secrets.token_hex(8)}.blocks" for row in facts["tables"]["volumes"]}
            recall = facts["tables"].get("recall", ())
            files |= {row[2]: f"{secrets.token_hex(8)}{recall_files.SUFFIX}" for row in recall}
            folder.mkdir(mode=0o700)
            for member in archive.getmembers():
                place = _place_of(library, member.name, folder, files)
                source = archive.extractfile(member)
                if place is not None and source is not None:
                    with place.open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (tarfile.TarError, KeyError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DamagedError(f"{file}: not an exported session, or damaged ({error}); give another") from error
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{file}: {error.strerror or error}; give an archive that can be read") from error
    with library.database() as db:
        for table, rows in facts["tables"].items():
            for row in rows:
                row[0] = identity
                if table == "sessions":
                    row[1] = name
                if table in ("volumes", "recall"):
                    row[2] = files[row[2]]
                db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    return name


def _place_of(library: Library, member: str, folder: Path, files: dict[str, str]) -> Path | None:
    """Where a part of an archive belongs; None for what is no part of a session."""
    part, _, leaf = member.partition("/")
    if part == "session" and leaf and "/" not in leaf and not leaf.startswith("."):
        return folder / leaf
    stem, _, suffix = leaf.partition(".")
    if part == "blocks" and leaf in files and suffix == "recall":
        return library.block_file(files[leaf])
    if part == "blocks" and f"{stem}.blocks" in files and suffix in ("blocks", "digests"):
        return library.block_file(files[f"{stem}.blocks"]).with_suffix(f".{suffix}")
    return None
