"""What a message of a conversation calls for: it is put to the voters once, by its own words alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everlong.engine.sampling import Sampling
from everlong.engine.stream import let_go
from everlong.engine.writing import check_writes
from everlong.session import asking
from everlong.session.asking import Again
from everlong.session.found import Found
from everlong.session.recall import Ballot, Recall

if TYPE_CHECKING:
    from everlong.engine.generation import GenerationStream
    from everlong.engine.writing import WritingStream


@dataclass(frozen=True)
class CalledFor:
    """What the voters found for a message."""

    found: Found
    recall: Recall
    """With the passages that are read again, none in the blocks' way."""
    begun: float

    def held(self, stream: WritingStream) -> Recall:
        """The best blocks in the slots of a stream, the session or a copy of it; what so came back."""
        return asking.held(stream, self.found, self.begun)


def passages_wanted(session: WritingStream, again: Again | None) -> Again:
    """How many passages are read again for a message (None: the session's default); 0 where no block is stored yet."""
    wanted = asking.default_again(session) if again is None else again
    stores = asking.recalls(session) and any(row.sealed for row in session.stored("chat").rows)
    return wanted if stores else 0


def called_for(session: WritingStream, text: str, again: Again | None) -> CalledFor | None:
    """The vote for a message; None where it calls for nothing: no words, or all that was read is attended to anyway."""
    wanted = passages_wanted(session, again)
    if not text.strip() or not (wanted or asking.holds(session)):
        return None
    begun = time.perf_counter()
    found = Found(Ballot(session, asking.question_ids(session, text), text))
    return CalledFor(found, asking.to_show(found, wanted, begun), begun)


def written_behind(stream: WritingStream, prompt: list[int], settings: dict[str, Any]) -> GenerationStream:
    """An answer behind a prompt that is put to no vote of its own: what a message called for lies in the slots."""
    check_writes(stream, Sampling(**settings))
    stream.read_prompt(prompt, recall=False)
    return stream.stream(None, **settings)


def written_behind_passages(stream: WritingStream, prompt: list[int], settings: dict[str, Any]) -> GenerationStream:
    """An answer behind a prompt that passages stand in: nothing is held for it, each layer chooses for itself."""
    let_go(stream.runner)
    return written_behind(stream, prompt, settings)
