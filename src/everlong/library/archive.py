"""A kept session as one tar archive: written wholly or not at all, taken in under any name."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import Any

from everlong.errors import DamagedError, EverlongError, InputError, SaveError, SessionError
from everlong.library import compact as compacting
from everlong.library import kept_facts, recall_files
from everlong.library.adopt import note_down, put_rows, rows_of
from everlong.library.catalog import Catalog, SessionRecord
from everlong.library.database import check_format
from everlong.library.journal import JOURNAL, pending
from everlong.library.naming import check_name
from everlong.library.schema import FORMAT, FORMATS


def export(catalog: Catalog, entry: SessionRecord, file: Path, overwrite: bool) -> None:
    """Write a session to one tar archive; wholly or not at all."""
    if file.is_dir() or not file.name:
        raise SaveError(f"{file}: is a folder; give the name of a file in it, such as {file / entry.name}.tar")
    if file.exists() and not overwrite:
        raise SaveError(f"{file}: exists; give another place, or say that it may be written over")
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with catalog.database() as db:
        tables = rows_of(db, entry.id)
    try:
        with tarfile.open(draft, "w") as archive:
            facts = json.dumps({"format": FORMAT, "tables": tables, "facts": kept_facts.facts(catalog, entry)}).encode()
            info = tarfile.TarInfo("session.json")
            info.size = len(facts)
            archive.addfile(info, io.BytesIO(facts))
            journal = [JOURNAL] if pending(catalog.place(entry)) else []
            for path in (catalog.place(entry) / part for part in ("ids", *journal, entry.state) if part):
                archive.add(path, f"session/{path.name}")
            compacting.archive_volumes(catalog, entry, archive, draft)
            recall_files.archive(catalog, entry, archive, draft)
        draft.replace(file)
    except OSError as error:
        raise SaveError(f"{file}: {error.strerror or error}; give another place with room") from error
    finally:
        draft.unlink(missing_ok=True)


def take(catalog: Catalog, file: Path, name: str | None) -> str:
    """Put the session of an archive into the library, under its name or another; that name."""
    identity = secrets.token_hex(8)
    folder = catalog.folder / "sessions" / identity
    made = [folder]
    try:
        with tarfile.open(file) as archive:
            facts = json.load(archive.extractfile("session.json"))  # pyrefly: ignore
            check_format(str(file), "a session", facts["format"], FORMATS)
            tables = facts["tables"]
            name = tables["sessions"][0][1] if name is None else name
            check_name(name)
            if catalog.find(name) is not None:
                raise SessionError(f"session {name!r}: exists already; give another --name")
            # Under new names: the session that it was made from may still be here, with files of the old ones.
            files = {row[2]: f"{secrets.token_hex(8)}.blocks" for row in tables["volumes"]}
            files |= {row[2]: f"{secrets.token_hex(8)}{recall_files.SUFFIX}" for row in tables.get("recall", ())}
            folder.mkdir(mode=0o700)
            for member in archive.getmembers():
                place = _place_of(catalog, member.name, folder, files)
                source = archive.extractfile(member)
                if place is not None and source is not None:
                    made.append(place)
                    with place.open("wb") as target:
                        shutil.copyfileobj(source, target)
        with catalog.database() as db:
            catalog.claim(db, name)
            put_rows(db, _placed(tables, identity, name, files))
        kept_facts.put_facts(catalog, identity, facts.get("facts", {}))
        note_down(catalog, name)
    except (tarfile.TarError, LookupError, TypeError, ValueError, AttributeError) as error:
        _remove(made)
        if isinstance(error, EverlongError):
            raise
        raise DamagedError(f"{file}: not an exported session, or damaged ({error}); give another") from error
    except OSError as error:
        _remove(made)
        raise InputError(f"{file}: {error.strerror or error}; give an archive that can be read") from error
    except BaseException:
        _remove(made)
        raise
    return name


def _placed(tables: dict[str, list[Any]], identity: str, name: str, files: dict[str, str]) -> dict[str, list[Any]]:
    """The rows of an archive for the session `identity`, under its new name and with its new files."""
    rows = {table: [[identity, *row[1:]] for row in found] for table, found in tables.items()}
    rows["sessions"][0][1] = name
    for row in (*rows["volumes"], *rows.get("recall", ())):
        row[2] = files[row[2]]
    return rows


def _remove(made: list[Path]) -> None:
    """Remove what was taken out of an archive that could not be taken whole."""
    folder, *files = made
    for path in files:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _place_of(catalog: Catalog, member: str, folder: Path, files: dict[str, str]) -> Path | None:
    """Where a part of an archive belongs; None for what is no part of a session."""
    part, _, leaf = member.partition("/")
    if part == "session" and leaf and "/" not in leaf and not leaf.startswith("."):
        return folder / leaf
    stem, _, suffix = leaf.partition(".")
    if part == "blocks" and leaf in files and suffix == "recall":
        return catalog.block_file(files[leaf])
    if part == "blocks" and f"{stem}.blocks" in files and suffix in ("blocks", "digests"):
        return catalog.block_file(files[f"{stem}.blocks"]).with_suffix(f".{suffix}")
    return None
