"""One stream of tokens that a model reads and goes on with: what was read, the cache, and its one counter."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, Self, overload

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.report import MemoryReport
from everlong.engine import budgets
from everlong.engine.generation import Answer, Generation
from everlong.engine.logprobs import at_most, logprobs
from everlong.engine.parallel import check_draw
from everlong.engine.recall_index import index_maker
from everlong.engine.recompute import RecomputeReader
from everlong.engine.runner import CacheReader, Forward, Reader, State
from everlong.engine.sampling import Sampling
from everlong.engine.snapshot import Mark
from everlong.errors import CapabilityError, InputError, SessionError
from everlong.library.sentence_index import Meaning
from everlong.methods.base import Method
from everlong.methods.blocks.memory import BlockMemory
from everlong.methods.blocks.pins import Pin
from everlong.methods.blocks.recall.files import RecallFiles
from everlong.methods.blocks.recall.scout import Queries
from everlong.methods.recompute import Recompute
from everlong.models.internals import device_of
from everlong.models.load import Loaded
from everlong.ops.spans import Ints
from everlong.storage.base import HostStore, Store
from everlong.storage.budget import Budget
from everlong.text.history import Recent
from everlong.text.inputs import Input, chunks, row_pieces, with_tail
from everlong.text.offsets import Awaited
from everlong.text.transcript import ANSWER, PROMPT, SOURCE, Stretch, Transcript
from everlong.text.words import word_classes

ANSWERING_TOKENS = 256
"""How many of a prompt's last tokens choose for themselves what they remember, at most."""
RECENT_TOKENS = 4096
"""Ids kept for the repetition penalty, or as many as the method's window and sinks if that is more."""


class TokenStream(AbstractContextManager["TokenStream"]):
    """One stream read by a model with a method, in memory that does not grow with it.

    Each chunk is read wholly or not at all: an error or an interrupt in the middle leaves the stream as it was after
    the chunk before. The model stays attached until `close()`, or the end of a `with` block.
    """

    def __init__(self, loaded: Loaded, method: Method, chunk: int, allow_special: bool = False) -> None:
        self._take(loaded, method, chunk, allow_special)
        self._budget = Budget()
        self._set_up(reader(self.model, method, chunk), remembers=False)

    @property
    def meaning(self) -> Meaning | None:
        """The vectors of what was read, where a sentence encoder was given."""
        return self._meaning

    def _take(self, loaded: Loaded, method: Method, chunk: int, allow_special: bool) -> None:
        self.allow_special = allow_special
        self.model, self.tokenizer, self.name = loaded.model, loaded.tokenizer, loaded.name
        self.origin = loaded.origin
        self.method, self.chunk = method, chunk
        self.vocabulary: int = self.model.get_input_embeddings().weight.shape[0]

    def _set_up(self, reader: Reader, remembers: bool) -> None:
        """An empty stream, read by `reader`; `remembers` where the transcript is kept whatever the method."""
        method = self.method
        self._reader: Reader | None = reader
        self.transcript, self._awaited = Transcript(self.tokenizer), Awaited()
        self._remembers, self._source = method.answers or remembers, SOURCE
        self._last: Tensor | None = None
        self._conversing: bool | None = False
        self._marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        fields = method.as_dict()
        self._recent = Recent(max(RECENT_TOKENS, fields.get("window", 0) + fields.get("sinks", 0)))
        self._budgets = budgets.Budgets(self._budget, self._reader, self.chunk)
        self._word_classes: Ints | None = None
        self._meaning: Meaning | None = None

    @property
    def seen_tokens(self) -> int:
        """Tokens read so far, special ones included."""
        return self._open().seen_tokens

    @property
    def prediction(self) -> Float[Tensor, " vocabulary"] | None:
        """The logits of the next token; None before the first token (or when an interrupt lost them)."""
        reader = self._open()
        if self._last is None and reader.seen_tokens:
            self._last = reader.predict()
        return self._last

    @property
    def remembers(self) -> bool:
        """Whether `transcript` has what was read: for a method that stores blocks, and for kept sessions."""
        return self._remembers

    @property
    def conversing(self) -> bool:
        """Whether what was read ends with a conversation, or a text behind one: messages go on with it."""
        if self._conversing is not None:
            return self._conversing
        # A session that was kept by a version which did not note it down.
        return any(s.name == ANSWER for s in self.transcript.sources) if self._remembers else self.seen_tokens > 0

    @conversing.setter
    def conversing(self, value: bool) -> None:
        self._conversing = value

    def recent_ids(self) -> Tensor:
        """The last ids read, int64 [n], oldest first: what the repetition penalty looks at."""
        return self._recent.ids()

    def feed(self, x: Input, answering: bool = False, source: str = SOURCE) -> int:
        """Reads `x` (text, ids, or an iterator of text); the number of tokens read, 0 for empty input.

        With `answering` each token chooses for itself what it remembers, as those of an answer do (blocks; slower).
        `source` is what citations will call the text.
        InputError, before anything is read, for ids outside the vocabulary; in an iterator, before the piece.
        """
        start, self._source = self.seen_tokens, source
        if not answering:
            self.let_go()
        for ids in self._chunks(x):
            self._read(ids, every=False, answering=answering)
        return self.seen_tokens - start

    def score_stream(self, x: Input, max_tokens: int | None = None) -> Iterator[Float[Tensor, " tokens"]]:
        """Reads `x` and gives the log-probabilities of its tokens, one tensor for each chunk, in bounded memory.

        Values are natural logarithms in float32 on the model's device, each given all that came before; NaN
        for the very first token of a session. Stops after `max_tokens`. The session holds what was given out,
        also when the iterator is left early.
        """
        for ids in at_most(self._chunks(x), max_tokens):
            yield self._score(ids)[0]

    @overload
    def score(self, x: Input, logits: Literal[False] = False) -> Tensor: ...

    @overload
    def score(self, x: Input, logits: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def score(self, x: Input, logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens of `x` given what came before, float32 [len(x)]; the session then holds x.

        NaN where there is no predecessor. With `logits` the pair (log-probabilities, logits [len(x),
        vocabulary] in the model's dtype), row i being the prediction made after x[i]. A text must fit in memory
        here: `score_stream` takes one without end.
        """
        found = list(self._chunks(x))
        device = device_of(self.model)
        total = sum(map(len, found))
        scored, rows, start = torch.empty(total, device=device), None, 0
        for ids in found:
            end = start + len(ids)
            scored[start:end], after = self._score(ids)
            if logits:
                rows = after.new_empty(total, after.shape[1]) if rows is None else rows
                rows[start:end] = after
            del after
            start = end
        if not logits:
            return scored
        return scored, scored.new_empty(0, self.vocabulary) if rows is None else rows

    def generate(self, prompt: Input | None = None, **sampling: Any) -> Generation:
        """The answer to `prompt` (text, ids, or None to go on), written to its end.

        `sampling` are the fields of `Sampling`: max_new_tokens, temperature, top_p, top_k,
        repetition_penalty, stop, seed. Ends at the model's end tokens, which are neither returned nor read;
        afterwards the session holds the prompt and all returned tokens.
        """
        answer = self.stream(prompt, **sampling)
        for _ in answer:
            pass
        return answer.result

    def stream(self, prompt: Input | None = None, **sampling: Any) -> Answer:
        """Like `generate`, as an iterator of pieces of text; its `result` grows with them.

        The prompt is read at once. Leaving the iterator early (`close()`, an interrupt) is allowed: the
        session then holds the tokens in `result.token_ids`. InputError where there is nothing to go on from.
        """
        settings = Sampling(**sampling)
        if not self.method.streams:
            raise CapabilityError(f"generate: {self.method} can only score; use everlong.Sinks or Window to generate")
        if settings.stops and self.tokenizer is None:
            raise CapabilityError("stop: this session has no tokenizer to find strings with; leave stop out")
        check_draw(self.model, settings)
        if prompt is not None:
            self._ask(prompt)
        if self.prediction is None:
            lost = "the last prediction was lost by an interrupt" if self.seen_tokens else "the session is empty"
            raise InputError(f"generate: {lost} and there is no prompt; give a prompt of at least one token")
        return Answer(self, settings)

    @property
    def word_classes(self) -> Ints:
        """For each id the smallest id of the same word: what questions and passages are compared by."""
        if self._word_classes is None:
            self._word_classes = word_classes(self.tokenizer, self.vocabulary)
        return self._word_classes

    def scout(self, ids: Tensor) -> dict[int, Queries]:
        """The queries that `ids` [n] would have in the layers of the recall index; the session stays as it is."""
        reader = self._open()
        if reader.blocks is not None and reader.blocks.wants_surprisals:
            reader.blocks.tell_lost(reader.seen_tokens)
        return reader.scout(ids)

    def raw_keys(self, layer: int, first: int, end: int) -> Float[Tensor, "G n D"]:
        """Keys of tokens that are in no block yet, before their rotation."""
        return self._open().raw_keys(layer, first, end)

    def ask_prompt(self, prompt: Input) -> None:
        """Reads a prompt whose last tokens choose for themselves what they remember; what is recalled stays."""
        self._ask(prompt, recall=False)

    def stored(self, what: str) -> BlockMemory:
        """The block memory; CapabilityError, naming `what` was wanted, for a method that stores nothing."""
        blocks = self._open().blocks
        if blocks is None:
            raise CapabilityError(f"{what}: {self.method} stores nothing; use everlong.Blocks")
        return blocks

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The spans that are pinned, in their order in the stream; nothing before the first token."""
        rows = self.stored("pins").rows
        return rows[0].pins if rows else ()

    def forget_recent(self, first: int, end: int) -> None:
        """Puts a filler in the place of the ids `first` .. `end - 1`, wherever they were taken down."""
        if self._meaning is not None:
            self._meaning.forget([Stretch(first, end)])
        self.transcript.forget(first, end)
        self._recent.forget(first, end, self.transcript.filler())

    def drop_blocks(self, blocks: Iterable[int]) -> None:
        """Lets these stored blocks never come back; the report counts their tokens as dropped."""
        memory = self._open().blocks
        if memory is not None:
            memory.drop(blocks)

    def report(self) -> MemoryReport:
        """What the session has seen, what it still attends to, and the bytes this takes."""
        return dataclasses.replace(self._open().report(), budget_bytes=self._budget.as_dict())

    def planned_bytes(self, tokens: int) -> dict[str, int]:
        """Bytes by tier that a stream of so many tokens takes at most in a store, room for questions included.

        `host` is without the records that stay in memory as far as there is room.
        """
        return budgets.planned_bytes(self._open(), tokens, self.chunk)

    def fork(self) -> Self:
        """An independent session that has read the same; shares the model, copies the cache (its bytes, once)."""
        reader = self._open().fork()
        twin = copy.copy(self)
        twin._reader, twin._recent, twin._marks = reader, self._recent.copy(), weakref.WeakSet()
        twin.transcript = self.transcript.copy()
        twin._meaning = None if self._meaning is None else self._meaning.fork()
        twin._awaited = Awaited()
        return twin

    def mark(self) -> Mark:
        """The present state, to come back to with `rewind`; costs a copy of the cache."""
        transcript = self.transcript.copy()
        mark = Mark(self._open().fork(), self._recent.copy(), self.prediction, transcript, self._conversing)
        self._marks.add(mark)
        return mark

    def rewind(self, mark: Mark) -> None:
        """Goes back to `mark`, which stays good for further rewinds; SessionError for another session's mark."""
        reader = self._open()
        if mark.closed or mark not in self._marks:
            raise SessionError("rewind: this mark is closed or of another session; use one of session.mark()")
        self._reader, self._recent, self._last, self.transcript = mark.copy()
        self._conversing = mark.conversing
        reader.close()

    def reset(self) -> None:
        """Forgets everything read; marks stay good."""
        self._forget()

    def _forget(self) -> None:
        reader = self._open()
        fresh = reader.fresh()
        self.transcript = Transcript(self.tokenizer)
        self._reader, self._recent, self._last = fresh, Recent(self._recent.size), None
        self._conversing = False
        reader.close()

    def state(self, sealed: bool = True) -> State:
        """Tensors by name and JSON-able values: all that the session needs to go on.

        Not `sealed`: without the blocks and the ids that a store keeps.
        """
        reader, last = self._open(), self.prediction
        tensors, meta = reader.state(sealed)
        kept = {f"cache.{name}": tensor for name, tensor in tensors.items()} | {"recent": self._recent.ids()}
        facts: dict[str, Any] = {"cache": meta, "seen_tokens": self.seen_tokens}
        facts["conversing"] = self.conversing
        if sealed and self._remembers:
            read, facts["sources"] = self.transcript.state()
            kept |= read
        return kept | ({} if last is None else {"prediction": last}), facts

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Goes on from the `state` of a session of the same model and method, forgetting what was read here."""
        self._forget()
        reader = self._open()
        cache = {name.removeprefix("cache."): part for name, part in tensors.items() if name.startswith("cache.")}
        reader.load_state(cache, meta["cache"])
        self._recent = Recent.restored(self._recent.size, tensors["recent"], meta["seen_tokens"])
        if "sources" in meta:
            self.transcript.load_state(tensors, meta["sources"])
        self._conversing = meta.get("conversing")
        last = tensors.get("prediction")
        self._last = None if last is None else last.to(device_of(self.model))

    def _open(self) -> Reader:
        if self._reader is None:
            raise SessionError("the session is closed; make a new one, or load a saved one")
        return self._reader

    def _chunks(self, x: Input) -> Iterator[Tensor]:
        """The ids of `x` in chunks."""
        reader = self._open()
        found = row_pieces(x, self.tokenizer, self.vocabulary, reader.seen_tokens == 0, self.allow_special)
        self._awaited.clear()
        for rows in chunks(found, min(self.chunk, reader.chunk_limit)):
            self._awaited.add(rows, reader.seen_tokens)
            yield rows[:, 0].contiguous()

    def _ask(self, prompt: Input, recall: bool = True) -> None:
        """Reads a prompt; its last tokens as part of the answer, where the method tells the two apart.

        `recall`: these tokens are put to the voters first, and what they choose is held until other text is read.
        """
        tail, self._source = ANSWERING_TOKENS if self.method.answers else 0, PROMPT
        if (blocks := self._open().blocks) is not None:
            blocks.forget_citations()
        question: list[Tensor] = []
        for ids, answering in with_tail(self._chunks(prompt), tail):
            if answering:
                question.append(ids)
            else:
                self._read(ids, every=False)
        if recall and question:
            self._hold(torch.cat(question).tolist())
        for ids in question:
            self._read(ids, every=False, answering=True)

    def _read(self, ids: Tensor, every: bool, answering: bool = False) -> Tensor:
        """The logits of one chunk, after which the session holds it; or, on any exception, as if not begun.

        Where stored blocks must give way inside the chunk, it is read in parts, each by itself wholly or not at all.
        """
        found: list[Tensor] = []
        asked = self._source in (PROMPT, ANSWER)
        for part in self._budgets.parts(self._open(), ids, answering, asked, self._reuse):
            found[:] = [*(found if every else []), self._read_part(part, every, answering)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _read_part(self, ids: Tensor, every: bool, answering: bool = False) -> Tensor:
        reader, before = self._open(), self._last
        cuts = reader.blocks if reader.blocks is not None and reader.blocks.wants_surprisals else None
        if cuts is not None:
            cuts.tell_lost(reader.seen_tokens)
            every = True
        try:
            logits = reader.read(ids, every, answering)
            self._last = None
            if cuts is not None:
                cuts.tell(-logprobs(before, logits, ids)[None])
            self._note(ids)
            self._last = logits[-1].clone() if every else (logits[-1] if len(logits) else None)
        finally:
            if self._recent.seen < reader.seen_tokens:
                self._last = None
                self._note(ids)
        return logits

    def _note(self, ids: Tensor) -> None:
        """Takes down what was read."""
        if self._remembers and len(self.transcript.ids) == self._recent.seen:
            self.transcript.add(ids.tolist(), self._source, self._awaited.rows(self._recent.seen, ids))
        self._recent.add(ids)

    def _score(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Reads one chunk; its log-probabilities and the logits after each of its tokens."""
        before = self.prediction
        after = self._read(ids, every=True)
        return logprobs(before, after, ids), after

    def let_go(self) -> None:
        """Holds no recalled blocks any more: other text is read."""
        memory = self._open().blocks
        if memory is not None and memory.rows:
            memory.hold_recalled(())

    def _hold(self, question: list[int]) -> None:
        """Lets what is read next attend to what a question recalls; here to nothing."""
        self.let_go()

    def _reuse(self) -> None:
        """Lets the room of blocks that were given up be used again; a stream that is not kept has none on the disk."""

    def beside(self, method: Method) -> TokenStream:
        """An empty stream over the same model, read with another method."""
        return TokenStream(Loaded(self.model, self.tokenizer, self.name), method, self.chunk)

    def close(self) -> None:
        """Frees the cache and the marks, and detaches the model if no other stream uses it; may be called twice."""
        reader, self._reader, self._last = self._reader, None, None
        for mark in list(self._marks):
            mark.close()
        self._marks.clear()
        if reader is not None:
            reader.close()
        meaning, self._meaning = self._meaning, None
        if meaning is not None:
            meaning.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def reader(
    model: Any,
    method: Method,
    chunk: int,
    make_store: Callable[[], Store] = HostStore,
    recall_files: RecallFiles | None = None,
) -> Reader:
    """What reads a stream with `method`: stored blocks go where `make_store` says, the recall index to its files."""
    forward = Forward(model)
    if isinstance(method, Recompute):
        return RecomputeReader(forward, method)
    return CacheReader.attached(forward, method, chunk, make_store, index_maker(model, method, recall_files))
