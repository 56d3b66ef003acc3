"""One line in plain words on what was looked at for an answer, and what of all that was read is lost."""

from __future__ import annotations

from everlong.cache.report import MemoryReport
from everlong.cli.amounts import several
from everlong.session.losses import Losses, losses
from everlong.session.recall import Recall
from everlong.session.session import Session


def account(session: Session, recall: Recall | None, report: MemoryReport) -> str:
    """What was looked at for an answer, and what is lost: "looked at 8 of 3,912 passages; nothing lost".

    `recall` is what came back for the question, `report` that of the session which answered.
    """
    return f"looked at {_looked_at(session, recall, report)}; {lost(losses(session))}"


def lost(found: Losses) -> str:
    """What is lost, in words."""
    if found.nothing:
        return "nothing lost"
    reasons = {
        "forgotten": found.forgotten,
        "of texts that have changed since": found.changed,
        "given up for room or damaged": found.given_up,
        "that left the window and are not kept": found.left,
    }
    said = [f"{several(count, 'token')} {why}" for why, count in reasons.items() if count]
    words = [f"lost: {', '.join(said)}"] if said else []
    if found.compressed:
        words.append(f"{several(found.compressed, 'token')} kept in a compressed memory only")
    words += [f"of {name} only a part was read" for name in found.unfinished]
    return "; ".join(words)


def _looked_at(session: Session, recall: Recall | None, report: MemoryReport) -> str:
    window = report.sink_tokens + report.window_tokens
    if recall is None:
        seen = window + report.retrieved_tokens
        return _of(seen, report.seen_tokens, "token")
    if recall.way == "again":
        return _of(len(recall.shown), recall.among, "passage")
    length = session.stored("report").settings.block
    blocks = max(len(recall.blocks), -(-report.retrieved_tokens // length))
    if not blocks:
        return _of(window, report.seen_tokens, "token")
    return f"{_of(blocks, recall.among, 'passage')} and {several(window, 'token')} beside them"


def _of(part: int, whole: int, noun: str) -> str:
    """So many of so many."""
    if part >= whole:
        return f"all {several(whole, noun)}" if whole != 1 else f"the only {noun}"
    return f"{part:,} of {several(whole, noun)}"
