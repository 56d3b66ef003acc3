"""The files of a folder that are read: documents, prose and source code, without what is hidden or ignored by git."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec
from pygments.lexers import get_all_lexers

from everlong.errors import InputError

DOCUMENTS = (".html", ".htm", ".xhtml", ".pdf", ".epub", ".docx", ".odt", ".ipynb", ".mbox", ".eml")
"""What an extractor reads (formats.py)."""
_PROSE = (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".log", ".srt", ".vtt", ".csv", ".tsv")
_NEVER = (".pem", ".asc", ".sig", ".svg", ".eps", ".ps", ".aux", ".toc", ".sqlite3-console")
"""Keys, pictures and by-products that are text and that nobody asks about."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Image files, for models that take images."""
Rules = list[tuple[Path, "GitIgnoreSpec"]]
"""The .gitignore files that hold for a folder, the outermost first, each with the folder it stands in."""


def files_in(folder: Path, skipped: Counter[str], images: bool = False) -> list[Path]:
    """The files of a folder and those below it that are read, sorted; what is not is counted in `skipped` by its kind.

    With `images` pictures are among them.

    InputError for a folder that cannot be listed; those below it are counted.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; give a folder that can be read") from None
    return sorted(_walk(folder, _rules_above(folder), skipped, images))


def _walk(folder: Path, rules: Rules, skipped: Counter[str], images: bool) -> Iterator[Path]:
    rules = rules + _rules_of(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        skipped["folders that cannot be read"] += 1
        return
    for entry in entries:
        path = folder / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            skipped["hidden"] += 1
        elif _is_ignored(path, is_folder, rules):
            skipped["ignored by .gitignore"] += 1
        elif is_folder:
            yield from _walk(path, rules, skipped, images)
        elif not path.is_file():
            skipped["links to folders, and what is no file"] += 1
        elif not is_text_name(entry.name) and not (images and is_picture(entry.name)):
            skipped[path.suffix.lower() or "without a suffix"] += 1
        elif not os.access(path, os.R_OK):
            skipped["that cannot be read"] += 1
        elif not path.stat().st_size:
            skipped["empty"] += 1
        else:
            yield path


def is_picture(name: str) -> bool:
    """Whether a file is an image by its name."""
    return Path(name).suffix.lower() in PICTURES


def is_text_name(name: str) -> bool:
    """Whether a file of this name is read where its folder is given."""
    suffix = Path(name).suffix.lower()
    if not suffix:
        return name.isupper() or name in _code_names()[1]
    return suffix in DOCUMENTS or suffix in _PROSE or suffix in _code_names()[0] or name in _code_names()[1]


@functools.cache
def _code_names() -> tuple[frozenset[str], frozenset[str]]:
    """The suffixes and the whole names of source code, as Pygments knows them."""
    patterns = {pattern for _, _, patterns, _ in get_all_lexers(plugins=False) for pattern in patterns}
    suffixes = {p[1:].lower() for p in patterns if re.fullmatch(r"\*\.[\w+-]+", p)}
    names = {p for p in patterns if re.fullmatch(r"[A-Za-z][\w.-]*", p) and not p.startswith("id_")}
    return frozenset(suffixes.difference(_NEVER)), frozenset(names)


def _rules_above(folder: Path) -> Rules:
    """The rules of the folders above, up to the one that holds the repository; none outside of one."""
    above = list(folder.resolve().parents)
    roots = [n for n, parent in enumerate(above) if (parent / ".git").exists()]
    if not roots or (folder / ".git").exists():
        return []
    return [rule for parent in reversed(above[: roots[0] + 1]) for rule in _rules_of(parent)]


def _rules_of(folder: Path) -> Rules:
    try:
        lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(folder.resolve(), GitIgnoreSpec.from_lines(lines))]


def _is_ignored(path: Path, is_folder: bool, rules: Rules) -> bool:
    """What the innermost rule that speaks of a path says."""
    whole = path.parent.resolve() / path.name if rules else path
    for base, spec in reversed(rules):
        said = spec.check_file(whole.relative_to(base).as_posix() + ("/" if is_folder else "")).include
        if said is not None:
            return said
    return False
