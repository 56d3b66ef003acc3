"""What reading would take: tokens, time and room, said before it begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from everlong.cli.amounts import duration, size
from everlong.cli.console import Console
from everlong.cli.notes import estimated, told
from everlong.engine.budgets import planned_bytes
from everlong.environment import home
from everlong.errors import BudgetError, CapabilityError
from everlong.library.catalog import SessionRecord
from everlong.library.library import Library
from everlong.methods import Method
from everlong.models.load import Loaded
from everlong.session.ingest import Document, unread
from everlong.session.note_plan import NoteSettings
from everlong.session.session import Session
from everlong.text.inputs import id_pieces
from everlong.text.source_names import short_names

FORETOLD_BYTES = 200_000
"""From so many bytes of files on, what reading takes is worth the seconds in which it is found out."""


@dataclass(frozen=True)
class Reading:
    """A reading that is meant: with which model, into which session; `method` and `chunk` for one that is not there."""

    loaded: Loaded
    method: Method
    chunk: int
    store: Path | None
    name: str
    budgets: dict[str, Any]

    def foretell(self, documents: list[Document], console: Console) -> dict[str, int]:
        """Say what reading will take where that is much; the tokens of each document, as far as they were counted.

        CapabilityError where the disk has not the room.
        """
        if sum(n for _, n in self._unread(documents)) < FORETOLD_BYTES:
            return {}
        plan = self.plan(documents)
        _check_room(plan)
        disk = size(plan["bytes"]["disk"])
        free = size(plan["free_disk_bytes"])
        console.note(
            f"{plan['tokens']:,} tokens to read: about {duration(plan['seconds'])} or more on this machine, and {disk} "
            f"on the disk at most ({free} free)"
        )
        return plan["by_file"]

    def plan(self, documents: list[Document], notes: NoteSettings | None = None) -> dict[str, Any]:
        """Tokens, bytes by tier and seconds that it would take, with what the session holds already."""
        loaded = self.loaded
        chunk = self.chunk
        vocabulary = loaded.model.get_input_embeddings().weight.shape[0]

        def counted(documents: Iterable[Document]) -> dict[str, int]:
            pieces = {
                d.name: id_pieces(d.texts, loaded.tokenizer, vocabulary, False, d.allow_special) for d in documents
            }
            return {name: sum(map(len, found)) for name, found in pieces.items()}

        tokens = counted(d for d, _ in self._unread(documents))
        library, entry = self._kept
        held_bytes = 0 if library is None or entry is None else library.bytes(entry)
        method = self.method if entry is None else entry.made_method()
        with Session(loaded, method.in_memory(), chunk) as trial:
            trial.feed([0] * chunk)
            start = time.perf_counter()
            trial.feed([0] * chunk)
            token_s = (time.perf_counter() - start) / chunk
            seconds = token_s * sum(tokens.values())
            planned = None if notes is None else estimated(notes, trial, counted(documents).values(), token_s)
            held = 0 if entry is None else entry.tokens
            kept_tokens = held + sum(tokens.values()) + (planned or {}).get("kept_tokens", 0)
            needed = planned_bytes(trial.runner, kept_tokens, chunk)
        existing = next(p for p in (self._folder, *self._folder.absolute().parents) if p.exists())
        room = shutil.disk_usage(existing).free
        limits = {tier: self.budgets[f"{tier}_budget"] for tier in ("host", "disk")}
        over = [tier for tier, limit in limits.items() if limit is not None and needed[tier] > limit]
        return {
            "tokens": sum(tokens.values()),
            "held_tokens": held,
            "by_file": tokens,
            "seconds": seconds,
            "bytes": needed,
            "budget_bytes": {tier: limit for tier, limit in limits.items() if limit is not None},
            "over_budget": over,
            "when_full": self.budgets["when_full"],
            "free_disk_bytes": room,
            "fits": min(needed["disk"], limits["disk"] or needed["disk"]) - held_bytes < room,
        } | ({} if planned is None else {"notes": planned})

    def _unread(self, documents: list[Document]) -> list[tuple[Document, int]]:
        """What of the documents the session does not hold yet, and of how many bytes."""
        library, entry = self._kept
        sources = [] if library is None or entry is None else library.sources(entry)
        return [found for d in documents if (found := unread(sources, d)) is not None]

    @property
    def _folder(self) -> Path:
        return home() if self.store is None else self.store

    @cached_property
    def _kept(self) -> tuple[Library | None, SessionRecord | None]:
        """The library and the session, as far as they are there."""
        if not (self._folder / "everlong.db").is_file():
            return None, None
        library = Library(self._folder)
        return library, library.find(self.name)


def _check_room(plan: dict[str, Any]) -> None:
    if not plan["fits"]:
        raise CapabilityError(
            f"read: {plan['tokens']:,} tokens need {plan['bytes']['disk']:,} bytes on the disk, and "
            f"{plan['free_disk_bytes']:,} are free; use a smaller -o codec (int8, int4), or another --store"
        )


def tell(plan: dict[str, Any], console: Console) -> None:
    """Print the plan; an error where it does not fit the disk or the budgets."""
    _check_room(plan)
    for tier in plan["over_budget"] if plan["when_full"] == "refuse" else ():
        raise BudgetError(
            f"read: {plan['tokens'] + plan['held_tokens']:,} tokens need {plan['bytes'][tier]:,} bytes of {tier}, and "
            f"the budget is {plan['budget_bytes'][tier]:,}; give a larger --{tier}-budget, --when-full oldest, or "
            "a smaller -o codec (int8, int4)"
        )
    if console.json:
        console.result(plan)
        return
    shown = short_names(plan["by_file"])
    for name, tokens in plan["by_file"].items():
        print(f"{tokens:>12,} tokens  {shown[name]}")
    print(f"{plan['tokens']:>12,} tokens in all, about {duration(plan['seconds'])} or more on this machine")
    if "notes" in plan:
        print(told(plan["notes"], "at most "))
    places = {
        "disk": "on the disk",
        "host": "of host memory for blocks",
        "device": "of working memory beside the model",
    }
    for tier, place in places.items():
        print(f"{size(plan['bytes'][tier]):>19} {place}{_limits(plan, tier)}")


def _limits(plan: dict[str, Any], tier: str) -> str:
    """What the bytes of a tier are held against."""
    said = f", {size(plan['free_disk_bytes'])} free" if tier == "disk" else ""
    if tier in plan["budget_bytes"]:
        said += f", budget {size(plan['budget_bytes'][tier])}"
    return said + (f": the {plan['when_full']} blocks give way" if tier in plan["over_budget"] else "")
