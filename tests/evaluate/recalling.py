"""Sessions that pose questions without a memory of their own choice: stored blocks by how many words they share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from everlong.session.session import Session


@dataclass(frozen=True)
class FakeRecalled:
    """A passage."""

    source: str
    start: int
    end: int
    text: str
    share: float


@dataclass(frozen=True)
class FakeRecall:
    """What came back."""

    passages: tuple[FakeRecalled, ...]
    shown: tuple[FakeRecalled, ...]
    blocks: tuple[int, ...]
    stands_out: bool
    way: str


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9-]{4,}", text.lower()))


@contextmanager
def pose(session: Session, question: str, again: Any = 2, raw: bool = False) -> Iterator[Any]:
    """A fork that reads the question; recalled are the `again` blocks with the most words of it.

    again=0: no vote is held.
    """
    assert raw, "the questions of the task are plain completion"
    with session.fork() as twin:
        twin._ask(question)
        recall = None
        if session.method.answers and again != 0:
            recall = by_words(session, question, 3 if again == "auto" else again)
        yield SimpleNamespace(session=twin, recall=recall)


def by_words(session: Session, question: str, top: int) -> FakeRecall:
    memory = session.stored("recall")
    found = [
        (len(words(passage.text) & words(question)), block, FakeRecalled(**asdict(passage), share=0.5))
        for block in range(memory.sealed())
        for passage in session.transcript.passages(*memory.block_range(block))
    ]
    found.sort(key=lambda one: -one[0])
    best = found[:top]
    passages = tuple(passage for _, _, passage in found)
    stands_out = bool(best) and best[0][0] >= 3
    return FakeRecall(passages, tuple(p for _, _, p in best), tuple(b for _, b, _ in best), stands_out, "blocks")
