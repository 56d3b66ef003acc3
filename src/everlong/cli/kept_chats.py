"""The conversations that are kept: their names, opening and listing them."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from everlong.cli.console import Console
from everlong.cli.table import aligned, when
from everlong.environment import home
from everlong.errors import ConfigError
from everlong.library.catalog import SessionRecord
from everlong.library.library import Library
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.session import Session
from everlong.text.transcript import ANSWER


class Chats:
    """The chats in the folder `store`, which is made when the first of them is begun."""

    def __init__(self, store: Path | None) -> None:
        self.folder = home() if store is None else store

    def has(self, name: str | None) -> bool:
        """Whether there is a session of this name."""
        return name is not None and self._find(name) is not None

    def check(self, name: str | None, method: Method | None, pin_system: bool) -> None:
        """ConfigError if the session of this name was begun with another method than the one that was asked for."""
        entry = self._find(name) if name is not None else None
        if entry is None or method is None:
            return
        kept = entry.made_method()
        if pin_system or kept != method:
            got = "--pin-system" if pin_system else str(method)
            raise ConfigError(
                f"session {name!r}: was begun with {kept}, got {got}; leave the options as they were, or give another "
                "--session"
            )

    def opened(
        self, name: str | None, loaded: Loaded, method: Method, chunk: int, allow_special: bool, keep: bool = True
    ) -> Session:
        """The session of this name; a new one if there is none, named after the day if no name is given."""
        if name is not None and self._find(name) is not None:
            return Session.open(self.folder, name, loaded, chunk, read_only=not keep, allow_special=allow_special)
        new = name or self._new_name()
        return Session(loaded, method, chunk, self.folder, new, allow_special=allow_special)

    def delete(self, name: str) -> None:
        """Delete a chat in which nothing was said."""
        self._library().delete(name)

    def rows(self) -> list[dict[str, Any]]:
        """The sessions that hold answers, those used last first."""
        if not self._exists():
            return []
        library = self._library()
        found = []
        for entry in sorted(library.entries(), key=lambda e: -e.updated):
            turns = sum(1 for source in library.sources(entry) if source.name == ANSWER)
            facts = {
                "tokens": library.tokens(entry),
                "updated": entry.updated,
                "model": entry.model,
                "method": entry.method,
            }
            found += [{"name": entry.name, "turns": turns} | facts] if turns else []
        return found

    def _new_name(self) -> str:
        day = time.strftime("chat-%Y-%m-%d")
        taken = {e.name for e in self._library().entries()}
        names = (day if n == 1 else f"{day}-{n}" for n in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _find(self, name: str) -> SessionRecord | None:
        return self._library().find(name) if self._exists() else None

    def _exists(self) -> bool:
        return (self.folder / "everlong.db").is_file()

    def _library(self) -> Library:
        return Library(self.folder)


def tell(rows: list[dict[str, Any]], console: Console, called: str) -> None:
    """Print the chats, one a line; `called` is the command that goes on with them."""
    if console.json:
        console.result(rows)
        return
    if rows:
        header = ("NAME", "TURNS", "TOKENS", "LAST WRITTEN", "MODEL")
        cells = [(r["name"], f"{r['turns']:,}", f"{r['tokens']:,}", when(r["updated"]), r["model"]) for r in rows]
        print("\n".join(aligned(header, cells, right=("TURNS", "TOKENS"))))
        console.note(f"Next: {called} --session {shlex.quote(rows[0]['name'])}")
    else:
        console.note(f"No conversation is kept yet.\nNext: {called}")
