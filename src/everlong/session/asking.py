"""A question to a session: what comes back for it, and how it is put to the model.

Two ways. "blocks": the recalled blocks lie in slots beside the window, as keys and values. "again": the passages around
the peaks of the vote are read again, in a short stream of their own that begins with the sinks' tokens, the best
passage last, right before the question; nothing else distracts (docs/methods/blocks.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from everlong.engine.images import has_images
from everlong.engine.stream import let_go
from everlong.errors import CapabilityError, ConfigError, InputError
from everlong.methods.sinks import Sinks
from everlong.session.found import MOST_PASSAGES, PASSAGES, Found, trained_length
from everlong.session.recall import Ballot, Candidate, Recall, Recalled
from everlong.session.thoughts import Exchange
from everlong.text.chat_template import Template
from everlong.text.quoting import line_of
from everlong.text.source_names import short_names
from everlong.text.tokenize import token_ids
from everlong.text.transcript import ANSWER, PROMPT, SOURCE

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream

Again = int | Literal["auto"]
BORDER_TOKENS = 32
"""Where the vote peaks so near to a block's border, the neighbour comes too."""
SAID_AGAIN_TOKENS = 64
"""A passage's sentence of so many tokens at most is read once more behind all passages, or else a line of it."""
SAID_TIMES = 2
"""Those of a passage alone are read so often: once, SmolLM2 said 13 of 16 values in its replies, twice 15.

Those of several are read once: of two that differ twice over, it said the older one.
"""
ROOM_TOKENS = 1024
"""Tokens that may be written behind passages and question before the first of them leave the window."""


@dataclass(frozen=True)
class Posed(AbstractContextManager["Posed"]):
    """A question that was put: `session` is ready to answer; `recall` says what came back (None: nothing is stored)."""

    session: WritingStream
    recall: Recall | None
    owned: bool = True

    def __exit__(self, *exc: object) -> None:
        if self.owned:
            self.session.close()


def pose(
    session: WritingStream, question: str, again: Again | None = None, raw: bool = False, keep: bool = False
) -> Posed:
    """Put `question` to a session, which itself stays as it is (unless it is to `keep` it, in the blocks' way)."""
    ids = question_ids(session, question)
    if not recalls(session):
        if again:
            raise ConfigError(f"again={again}: {session.method} does not recall passages; use Blocks(recall=question)")
        return _put(session, question, raw, keep)
    begun = time.perf_counter()
    found = Found(Ballot(session, ids, question))
    # Passages are read again by their ids, in which there are no images: blocks have them as they were seen.
    default = default_again(session)
    most = most_passages(default if again is None else again)
    if not most and keeps_ids(session):
        raise ConfigError("again=0: this session keeps ids only (keep=ids); ask with again=1 or more")
    chosen = found.chosen(most)
    if chosen:
        shown = found.shown(chosen)
        recall = found.recall("again", shown, [found.candidates[n].block for n in chosen], begun)
        return Posed(_read_again(session, question, shown, raw), recall)
    return _put(session, question, raw, keep, found, begun)


def default_again(session: WritingStream) -> int:
    """How many passages are read again where nothing is said: none of a session with images, whose ids hold none."""
    return 0 if has_images(session) else PASSAGES


def recall(session: WritingStream, question: str, again: Again = PASSAGES) -> Recall:
    """What comes back for `question`, and which passages would be `shown`; the model sees nothing of it."""
    ids = question_ids(session, question)
    if not recalls(session):
        raise CapabilityError(f"recall: {session.method} does not recall passages; use Blocks(recall=question)")
    begun = time.perf_counter()
    return to_show(Found(Ballot(session, ids, question)), again, begun)


def to_show(found: Found, again: Again, begun: float) -> Recall:
    """What was found, and which of its passages would be shown; `begun`: when it was begun to be looked for."""
    chosen = found.chosen(most_passages(again))
    return found.recall("again", found.shown(chosen), [found.candidates[n].block for n in chosen], begun)


def recalls(session: WritingStream) -> bool:
    """Whether questions to this session are put to the voters."""
    fields = session.method.as_dict()
    return session.method.answers and fields.get("recall") == "question" and session.seen_tokens > fields["sinks"]


def keeps_ids(session: WritingStream) -> bool:
    """Whether no blocks are kept, so that passages can only be read again."""
    return session.method.as_dict().get("keep") == "ids"


def hold(session: WritingStream, question: list[int], candidates: Sequence[Candidate] | None = None) -> None:
    """Let a prompt that is read next, and what is written behind it, attend to the blocks that the vote chooses.

    `candidates`: those of a vote for this question that was counted before.
    """
    let_go(session.runner)
    if holds(session):
        _slots(session, Ballot(session, question).candidates() if candidates is None else candidates)


def holds(session: WritingStream) -> bool:
    """Whether a question is put to the voters, for there are more blocks than are attended to at once."""
    if not recalls(session):
        return False
    memory = session.stored("ask")
    return bool(memory.rows) and memory.rows[0].sealed > memory.settings.top_k


def choose(session: WritingStream, target: WritingStream, question: list[int], text: str) -> Recall:
    """Let what is written next into `target`, a copy of the session or itself, attend to the blocks voted for."""
    begun = time.perf_counter()
    return held(target, Found(Ballot(session, question, text)), begun)


def question_ids(session: WritingStream, question: str) -> list[int]:
    """The ids of a question's own words; InputError for none."""
    if session.tokenizer is None:
        raise InputError("question: this session has no tokenizer; use a model that everlong.load gave")
    ids = token_ids(session.tokenizer, question, allow_special=session.allow_special)
    if not question.strip() or not ids:
        raise InputError("question: empty; give at least one word")
    return ids


def most_passages(again: Again) -> int:
    """How many passages are read again at most; ConfigError for what is neither a number nor auto."""
    if again == "auto":
        return MOST_PASSAGES
    if isinstance(again, bool) or not isinstance(again, int) or again < 0:
        raise ConfigError(f"again={again!r}: expected a number of passages (0: the blocks' way), or auto")
    return again


def _slots(session: WritingStream, candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Let the vote fill slots; which blocks.

    With the best blocks, the neighbours of those whose peak lies at a border, and then all neighbours. Slots that are
    left are for the layers' own choice.
    """
    memory = session.stored("ask")
    row = memory.rows[0]
    sealed = row.sealed
    most = min(memory.settings.recall_slots, memory.settings.top_k)
    near = [c for c in candidates if c.block < sealed and c.near]
    found: list[int] = []
    for c in near:
        first, end = row.block_range(c.block)
        found.append(c.block)
        found += [c.block - 1] if c.token - first < BORDER_TOKENS else []
        found += [c.block + 1] if end - c.token <= BORDER_TOKENS else []
    found += [n for c in near for n in (c.block + 1, c.block - 1)]
    inside = [n for n in dict.fromkeys(found) if 0 <= n < sealed]
    return row.hold_recalled(inside[:most])


def _put(
    session: WritingStream, question: str, raw: bool, keep: bool, found: Found | None = None, begun: float = 0.0
) -> Posed:
    """The question read into the session, or into a fork of it, with what was `found` in its slots."""
    asked = None if raw else exchange(session, question)
    # An answer of which the template shows less later on is written in a fork.
    keep = keep and (asked is None or not asked.rewritten)
    target = session if keep else session.fork()
    try:
        recall = None if found is None else held(target, found, begun)
        target.read_prompt(question if asked is None else asked.prompt, recall=False)
    except BaseException:
        if not keep:
            target.close()
        raise
    return Posed(target, recall, owned=not keep)


def held(session: WritingStream, found: Found, begun: float) -> Recall:
    """What was found, its best blocks in the slots of the session.

    Blocks that are not sealed yet stand in the window or right behind it, where every query sees them.
    """
    blocks = _slots(session, found.candidates)
    sealed = session.stored("ask").rows[0].sealed
    pairs = zip(found.passages, found.candidates, strict=True)
    shown = [p for p, c in pairs if c.block in blocks or (c.near and c.block >= sealed)]
    return found.recall("blocks", shown, blocks, begun)


def _read_again(session: WritingStream, question: str, passages: Sequence[Recalled], raw: bool) -> WritingStream:
    """A new short stream: the first tokens of the old one, the passages by rising vote, the question."""
    ids = again_ids(session, question, passages, raw)
    fresh = again_stream(session, len(ids))
    try:
        fresh.feed(ids, source=PROMPT)
    except BaseException:
        fresh.close()
        raise
    return fresh


def again_stream(session: WritingStream, tokens: int) -> WritingStream:
    """An empty short stream over the session's model, with room for so many tokens and a reply."""
    # Nothing of them leaves the window until ROOM_TOKENS are written behind, where the model was trained on so many.
    sinks = min(int(session.method.as_dict()["sinks"]), tokens)
    window = max(1, min(tokens + ROOM_TOKENS, trained_length(session) - sinks))
    return session.beside(Sinks(sinks=sinks, window=window))


def again_ids(
    session: WritingStream, question: str, passages: Sequence[Recalled], raw: bool, shape: Template | None = None
) -> list[int]:
    """The ids of that stream, with the passages in the order given.

    With the chat template (`shape`: one with a system prompt) all of it is one user's turn, and the template's own
    words are the sinks.
    """
    tokenizer = session.tokenizer
    found = passage_ids(session, passages, question)
    if raw:
        sinks = content(session, 0, int(session.method.as_dict()["sinks"]))
        said = token_ids(tokenizer, question, allow_special=session.allow_special)
        return [*sinks, *token_ids(tokenizer, "\n\n"), *found, *said]
    before, after = (shape or template(session)).around()
    said = token_ids(tokenizer, f"\n\nQuestion: {question}", allow_special=session.allow_special)
    return [*before, *found, *said, *after]


def template(session: WritingStream) -> Template:
    """The chat template of a session's tokenizer."""
    return Template(session.tokenizer, allow_special=session.allow_special)


def exchange(session: WritingStream, question: str) -> Exchange:
    """A question as the next message of the conversation that the session holds, or as the first of one."""
    return Exchange(template(session), question, session.conversing, session.seen_tokens > 0)


def passage_ids(session: WritingStream, passages: Sequence[Recalled], question: str) -> list[int]:
    """The ids of the passages, each behind its heading, and then of what they say about the question."""
    found: list[int] = []
    shown = short_names(source.name for source in session.transcript.sources)
    for n, passage in enumerate(passages, 1):
        found += token_ids(session.tokenizer, heading(n, shown.get(passage.source, passage.source)))
        found += content(session, passage.first, passage.last)
    return [*found, *_said_again(session, passages, question)]


def _said_again(session: WritingStream, passages: Sequence[Recalled], question: str) -> list[int]:
    """The ids of the passages' sentences with most of the question's words, in the same order.

    What stands there more than once, the last time right before the question, a small model repeats
    (docs/methods/blocks.md).
    """
    found: list[int] = []
    said = [sentence for passage in passages for sentence in passage.repeated(question)]
    for sentence in dict.fromkeys(said):
        for part in (sentence, line_of(sentence, question)):
            ids = token_ids(session.tokenizer, f"\n\n{part}")
            if part and len(ids) <= SAID_AGAIN_TOKENS:
                found += ids
                break
    return found if len(passages) > 1 else SAID_TIMES * found


def heading(number: int, source: str) -> str:
    """What stands before a passage: its number, and where it is from if its source has a name."""
    where = "" if source in (SOURCE, PROMPT, ANSWER) else f", from {source}"
    return ("" if number == 1 else "\n\n") + f"Passage {number}{where}:\n"


def content(session: WritingStream, first: int, last: int) -> list[int]:
    """The ids of the tokens `first` .. `last` - 1, as text: without control tokens."""
    ids = np.frombuffer(session.transcript.ids, np.int32)[first:last]
    special = np.array(session.tokenizer.all_special_ids, np.int32)
    return ids[~np.isin(ids, special)].tolist()
