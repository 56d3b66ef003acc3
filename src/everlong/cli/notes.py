"""Notes on files that were read: what they take, beforehand and while they are written."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from everlong.cli.console import Console
from everlong.models.load import Loaded
from everlong.session.ingest import Document, parts
from everlong.session.note_plan import NoteSettings, estimated_cost
from everlong.session.note_writer import NoteWriter
from everlong.session.notes import write_notes
from everlong.session.session import Session
from everlong.text.source_names import short_name

_TRIAL_TOKENS = 8
COSTS = ("notes", "read_tokens", "written_tokens", "kept_tokens", "seconds")


def write_notes_on(session: Session, documents: Iterable[Document], loaded: Loaded, console: Console) -> dict[str, Any]:
    """Notes on each of the documents, read into `session`; what they took, those that were there not counted."""
    took: dict[str, Any] = dict.fromkeys(COSTS, 0)
    for source in [s for d in documents for s in parts(session.transcript.sources, d)]:
        progress = None
        name = short_name(source.name, (s.name for s in session.transcript.sources))
        with console.progress(f"notes on {name}", None, "notes") as advance:
            for progress in write_notes(session, source, loaded):
                advance(progress.done, f"of {progress.total}, {progress.label}")
                took["notes"] += progress.is_new
        if progress is None:
            console.note(f"{name}: notes are there already")
            continue
        for cost in COSTS[1:]:
            took[cost] += getattr(progress, cost)
    return took


def fitted(loaded: Loaded) -> NoteSettings:
    """The settings of notes by this model; ConfigError where it can write none."""
    with NoteWriter(loaded, NoteSettings()) as writer:
        return writer.settings


def estimated(settings: NoteSettings, trial: Session, tokens: Iterable[int], token_s: float) -> dict[str, Any]:
    """What notes on texts of so many tokens would take at most; a token that is read takes `token_s` seconds.

    What a token that is written takes is tried out in the session `trial`.
    """
    costs = [asdict(estimated_cost(count, settings)) for count in tokens]
    took = {name: sum(cost[name] for cost in costs) for name in COSTS[:-1]}
    start = time.perf_counter()
    for _ in range(_TRIAL_TOKENS):
        trial.feed([0])
    written_s = (time.perf_counter() - start) / _TRIAL_TOKENS
    seconds = token_s * (took["read_tokens"] + took["kept_tokens"]) + written_s * took["written_tokens"]
    return took | {"seconds": seconds}


def told(took: dict[str, Any], most: str = "") -> str:
    """What notes took, in words; `most` stands before the figures."""
    made = f"{took['read_tokens']:,} tokens read for them, {took['written_tokens']:,} written"
    return (
        f"{took['notes']:,} notes: {most}{made}, {took['kept_tokens']:,} more in the session; {took['seconds']:.0f} s"
    )
