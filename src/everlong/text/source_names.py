"""What sources are called: files by their whole paths, shown by the shortest endings that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from everlong.errors import InputError, nearest

NOTES = "notes: "
"""What stands before the name of a source in that of the notes on it."""


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each name the shortest ending that no other has; names that are no whole paths stay as they are.

    >>> short_names(["/a/README.md", "/b/README.md", "/b/log.txt", "stdin"]) == {
    ...     "/a/README.md": "a/README.md", "/b/README.md": "b/README.md", "/b/log.txt": "log.txt", "stdin": "stdin"}
    True
    """
    names = set(names)
    count = Counter(ending for bare in {name.removeprefix(NOTES) for name in names} for ending in endings(bare))
    return {name: _shortest(name, count) for name in names}


def short_name(name: str, names: Iterable[str]) -> str:
    """The shortest ending of `name` that tells it from the others among `names`."""
    return short_names([*names, name])[name]


def full_name(said: str, names: Iterable[str]) -> str:
    """The one of `names` that is meant: by its whole name, a path that leads to the same file, or an ending of it.

    InputError where several end so, or none does.
    """
    names = set(names)
    mark = NOTES if said.startswith(NOTES) else ""
    bare = said.removeprefix(NOTES)
    for name in (said, mark + resolved(bare)):
        if name in names:
            return name
    ending = PurePath(bare).as_posix()
    alike = {name.removeprefix(mark): name for name in names if name.startswith(NOTES) == bool(mark)}
    found = sorted(name for bare, name in alike.items() if ending in endings(bare))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"source {said!r}: stands for {', '.join(found)}; give more of the path")
    raise InputError(f"source {said!r}: was not read into this session, or is forgotten; {nearest(said, names)}")


def resolved(path: str) -> str:
    """The whole path of a file, links and `..` followed; what can be no path stays as it is."""
    try:
        return str(Path(path).resolve())
    except (OSError, ValueError, RuntimeError):
        return path


def endings(name: str) -> list[str]:
    """The endings of a path, the shortest first and the whole name last; of any other name itself alone.

    >>> endings("/a/b.md"), endings("https://a.org/b.md")
    (['b.md', 'a/b.md', '/a/b.md'], ['https://a.org/b.md'])
    """
    if "://" in name:
        return [name]
    parts = PurePath(name).parts
    found = ["/".join(parts[first:]) for first in range(len(parts) - 1, 0, -1)]
    return [*found, name] if parts else [name]


def _shortest(name: str, count: Counter[str]) -> str:
    bare = name.removeprefix(NOTES)
    if not PurePath(bare).is_absolute():
        return name
    mark = name[: len(name) - len(bare)]
    return mark + next((ending for ending in endings(bare) if count[ending] == 1), bare)
