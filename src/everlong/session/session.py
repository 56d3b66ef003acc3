"""A stream read and continued by a model: feed, score, generate, fork, rewind, save and load."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.report import MemoryReport
from everlong.engine import budgets
from everlong.engine.generation import Answer, Generation
from everlong.engine.logprobs import at_most, logprobs
from everlong.engine.parallel import check_draw, check_ranks
from everlong.engine.recompute import RecomputeReader
from everlong.engine.runner import CacheReader, Forward, Reader, State
from everlong.engine.sampling import Sampling
from everlong.engine.snapshot import Mark
from everlong.errors import CapabilityError, ConfigError, DamagedError, InputError, SessionError
from everlong.library.checkpoint import Keeper
from everlong.library.library import Library
from everlong.library.portable import read, save
from everlong.library.sentence_index import Meaning
from everlong.methods.base import Method
from everlong.methods.blocks.memory import BlockMemory
from everlong.methods.blocks.pins import Pin
from everlong.methods.blocks.recall.scout import Queries
from everlong.methods.recompute import Recompute
from everlong.models.encoder import SentenceEncoder
from everlong.models.internals import device_of
from everlong.models.load import Loaded
from everlong.models.sharding import check_complete
from everlong.ops.spans import Ints
from everlong.session import asking, forgetting, pinning
from everlong.session.asking import Again, Posed
from everlong.session.citations import cited
from everlong.session.forgetting import Forgotten
from everlong.session.recall import Recall, Recalled
from everlong.session.recall_index import index_maker
from everlong.session.reply import Reply
from everlong.session.search import search
from everlong.session.words import word_classes
from everlong.storage.base import HostStore
from everlong.text.history import Recent
from everlong.text.inputs import Input, chunks, row_pieces, with_tail
from everlong.text.offsets import Awaited
from everlong.text.transcript import ANSWER, GONE, PROMPT, SOURCE, Citation, Source, Stretch, Transcript

CHUNK_TOKENS = 512
"""Tokens read by one forward unless said otherwise."""
ANSWERING_TOKENS = 256
"""How many of a prompt's last tokens choose for themselves what they remember, at most."""
RECENT_TOKENS = 4096
"""Ids kept for the repetition penalty, or as many as the method's window and sinks if that is more."""


class Session(AbstractContextManager["Session"]):
    """One stream of tokens read by `model` with `method`, in memory that does not grow with the stream.

    With `store` (a folder) the session is kept there under `name`: stored blocks go to the disk, `checkpoint` keeps
    the rest, and `Session.open` goes on from it in any process. `host_budget` and `disk_budget` (bytes, or texts such
    as "512M") are hard limits for what is stored; `when_full` says what gives way: the input (refuse: BudgetError, and
    the session stays as it was), or stored blocks (oldest, least-used), which the report then counts as dropped.

    `model`: what `everlong.load` returns, or a plain transformers model (then ids only). `chunk`: tokens
    read by one forward, at least 1; the model's trained length bounds it. The model stays attached until
    `close()`, or the end of a `with` block. `allow_special`: what a text spells may become a control token, as in a
    prompt that has a chat template's words in it; else it is text, and only templates give control tokens.

    Each chunk is read wholly or not at all: an error or an interrupt in the middle leaves the session as it
    was after the chunk before. Every call to feed, score or generate tokenises its text on its own; the
    tokens that the tokenizer itself adds come only in front of the first text of an empty session.
    """

    def __init__(
        self,
        model: Any,
        method: Method | None = None,
        chunk: int = CHUNK_TOKENS,
        store: str | Path | None = None,
        name: str = "default",
        host_budget: int | str | None = None,
        disk_budget: int | str | None = None,
        when_full: str = "refuse",
        allow_special: bool = False,
    ) -> None:
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise ConfigError(f"chunk={chunk}: must be a whole number of at least 1 (tokens read by one forward)")
        if not isinstance(method, Method):
            raise ConfigError(f"method={method!r}: expected a method such as everlong.Sinks(sinks=4, window=1020)")
        self._take(_loaded(model), method, chunk, allow_special)
        check_ranks(self.model, method, stored=store is not None)
        self._budget = budgets.given(method, store is not None, host_budget, disk_budget, when_full)
        self._keeper = None if store is None else Keeper.created(store, name, self)
        try:
            self._set_up()
        except BaseException:
            if self._keeper is not None:
                self._keeper.undo()
            raise

    def _take(self, loaded: Loaded, method: Method, chunk: int, allow_special: bool) -> None:
        self.allow_special = allow_special
        self.model, self.tokenizer, self.name = loaded.model, loaded.tokenizer, loaded.name
        self.origin = loaded.origin
        self.method, self.chunk = method, chunk
        self.vocabulary: int = self.model.get_input_embeddings().weight.shape[0]

    def _set_up(self) -> None:
        """An empty stream."""
        method = self.method
        self._reader: Reader | None = _reader(self.model, method, self.chunk, self._keeper)
        self.transcript, self._awaited = Transcript(self.tokenizer), Awaited()
        self._remembers, self._source = method.answers or self._keeper is not None, SOURCE
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
    def kept(self) -> bool:
        """Whether the session is kept in a store, so that `checkpoint` can be called."""
        return self._keeper is not None and self._keeper.writable

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

    @property
    def kept_name(self) -> str | None:
        """The name under which `checkpoint` keeps the session; None for one that is not kept."""
        return self._keeper.entry.name if self._keeper is not None and self._keeper.writable else None

    @property
    def kept_tokens(self) -> int:
        """Tokens that the last checkpoint holds; 0 without a store."""
        return 0 if self._keeper is None else self._keeper.entry.tokens

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
            asking.let_go(self)
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

    def ask(
        self, question: str, again: Again | None = None, raw: bool = False, keep: bool = False, **sampling: Any
    ) -> Reply:
        """The reply to a question about what was read, as an iterator of pieces of text; `text` is all of it.

        `again`: how many passages are read again at most (default 2, "auto" 4), none that is far behind the best; 0
        takes the blocks' way: recalled blocks beside the window. `raw`: the question is a text to be continued, without
        the chat template. The session stays as it is, unless it is to `keep` question and reply (not the passages).
        `sampling` as in `generate`. For a method without recall the question is read behind the stream.
        """
        Sampling(**sampling)
        posed = asking.pose(self, question, again, raw, keep)
        return Reply(self, posed, question, raw, keep, **sampling)

    def pose(self, question: str, again: Again | None = None, raw: bool = False) -> Posed:
        """A question put as `ask` puts it, and a session that is ready to answer; a context manager that closes it."""
        return asking.pose(self, question, again, raw)

    def recall(self, question: str) -> Recall:
        """The passages that come back for a question, best first, without an answer."""
        return asking.recall(self, question)

    @property
    def meaning(self) -> Meaning | None:
        """The vectors of what was read, where a sentence encoder was given."""
        return self._meaning

    def use_encoder(self, encoder: SentenceEncoder) -> Iterator[int]:
        """Let questions be answered by meaning too: encodes what was read; the tokens done so far, now and then.

        Nothing happens until the iterator is asked. What is read later is encoded when a question needs it, or by
        another call. In a kept session the vectors are kept beside it, and `Session.open` needs the encoder again.
        """
        if not self.remembers or self.tokenizer is None:
            raise CapabilityError(
                f"encoder: {self.method} keeps no record of text; use everlong.Blocks and a tokenizer"
            )
        if self._meaning is None or self._meaning.encoder is not encoder:
            folder = None if self._keeper is None else self._keeper.folder
            writable = self._keeper is not None and self._keeper.writable
            self._meaning = Meaning.open(encoder, folder, writable)
            if self._keeper is not None and writable:
                self._keeper.note_encoder(encoder.name)
        yield from self._meaning.update(self.transcript)

    def search(self, words: str, top: int = 5) -> list[Recalled]:
        """The passages that hold most of `words`, weighed by how rare they are; the model computes nothing."""
        if not self.remembers:
            raise CapabilityError(f"search: {self.method} keeps no record of what it read; use everlong.Blocks")
        ids = asking.question_ids(self, words)
        return search(self.transcript, self.word_classes, ids, words, top) if self.seen_tokens else []

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

    def citations(self, top: int = 5) -> list[Citation]:
        """Where the last answer drew on what is stored: passages by falling share of its attention.

        One passage for each stored block (two where sources meet in it), with its source, characters and text.
        CapabilityError for a method that stores nothing.
        """
        rows = self.stored("citations").rows
        found, masses = [], rows[0].done.cited if rows else {}
        total = sum(masses.values())
        for block, mass in masses.items():
            first, end = rows[0].block_range(block)
            for passage in self.transcript.passages(first, end):
                share = mass / total * len(passage.text) / max(1, len(self.transcript.text(first, end)))
                found.append(cited(self.transcript, passage, share))
        return sorted(found, key=lambda c: -c.mass)[:top]

    def forget_source(self, source: Source) -> None:
        """Drops the stored blocks that lie wholly in `source`; what was read after it keeps traces of it."""
        for row in self.stored("forget").rows:
            row.drop(row.blocks_within(*self.transcript.bounds(source)))
        source.digest, source.done, source.lines = GONE, False, ""

    def stored(self, what: str) -> BlockMemory:
        """The block memory; CapabilityError, naming `what` was wanted, for a method that stores nothing."""
        blocks = self._open().blocks
        if blocks is None:
            raise CapabilityError(f"{what}: {self.method} stores nothing; use everlong.Blocks")
        return blocks

    @property
    def forgotten(self) -> list[Stretch]:
        """The spans that a kept session was told to forget."""
        return [] if self._keeper is None else self._keeper.library.forgotten(self._keeper.entry)

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The spans that are pinned, in their order in the stream."""
        return pinning.pins(self)

    def pin(
        self,
        what: str | tuple[int, int],
        start: int | None = None,
        end: int | None = None,
        always: bool = True,
        keep: bool = True,
    ) -> Pin:
        """Pins a source, its characters `start` .. `end - 1`, or the tokens (first, end); what was pinned.

        `always`: every token that is read or written from now on attends to the blocks that touch the span. `keep`:
        these blocks are never given up for room. Blocks that are sealed later are held from then on. ConfigError
        where more blocks would always be attended to than top_k.
        """
        return pinning.pin(self, what, start, end, always, keep)

    def unpin(self, what: str | tuple[int, int], start: int | None = None, end: int | None = None) -> int:
        """Takes away the pins that share a token with the span, given as for `pin`; how many."""
        return pinning.unpin(self, what, start, end)

    def forget(self, what: str | tuple[int, int], start: int | None = None, end: int | None = None) -> Forgotten:
        """Forgets a source, its characters `start` .. `end - 1`, or the tokens (first, end); says what went.

        The blocks that touch the span are dropped, with what of its neighbours they hold; in a kept session they are
        overwritten on the disk, unless a fork still needs them. Tokens read later keep traces of the span.
        CapabilityError for tokens that are still among the sinks, in the window or pending.
        """
        return forgetting.forget(self, forgetting.stretches(self, what, start, end), self._keeper)

    def forget_recent(self, first: int, end: int) -> None:
        """Puts a filler in the place of the ids `first` .. `end - 1`, wherever they were taken down."""
        if self._meaning is not None:
            self._meaning.forget([Stretch(first, end)])
        self.transcript.forget(first, end)
        self._recent.forget(first, end, self.transcript.filler())

    def drop_blocks(self, blocks: Iterable[int]) -> None:
        """Lets these stored blocks never come back; the report counts their tokens as dropped."""
        memory = self._open().blocks
        for row in () if memory is None else memory.rows:
            row.drop(blocks)

    def checkpoint(self) -> None:
        """Keeps the session in its store as it is now; SaveError leaves the checkpoint before it."""
        self._open()
        if self._keeper is None:
            raise SessionError("checkpoint: this session has no store; give Session a store, or use save(path)")
        self._keeper.checkpoint(self)

    @classmethod
    def open(
        cls,
        store: str | Path | None,
        name: str,
        model: Any,
        chunk: int = CHUNK_TOKENS,
        read_only: bool = False,
        host_budget: int | str | None = None,
        disk_budget: int | str | None = None,
        when_full: str = "refuse",
        allow_special: bool = False,
    ) -> Session:
        """The session kept in the folder `store` under `name`, as its last checkpoint left it.

        `read_only`: what it reads from now on is not kept, and another process may write to it meanwhile. Budgets, as
        in Session, hold for as long as it is open. BudgetError if what is stored passes them and nothing may give way.
        """
        library = Library(store, create=False)
        keeper = Keeper(library, library.entry(name), writable=not read_only)
        try:
            session = cls.__new__(cls)
            loaded = _loaded(model)
            session._take(loaded, keeper.method(), chunk, allow_special)
            check_ranks(session.model, session.method, stored=True)
            session._budget = budgets.given(session.method, not read_only, host_budget, disk_budget, when_full)
            session._keeper = keeper
            keeper.check(session)
            session._set_up()
            keeper.restore(session)
            session._budgets.shrink(session._open(), session._reuse)
        except BaseException:
            keeper.close()
            raise
        return session

    def report(self) -> MemoryReport:
        """What the session has seen, what it still attends to, and the bytes this takes."""
        return dataclasses.replace(self._open().report(), budget_bytes=self._budget.as_dict())

    def planned_bytes(self, tokens: int) -> dict[str, int]:
        """Bytes by tier that a stream of so many tokens takes at most in a store, room for questions included.

        `host` is without the records that stay in memory as far as there is room.
        """
        return budgets.planned_bytes(self._open(), tokens, self.chunk)

    def fork(self) -> Session:
        """An independent session that has read the same; shares the model, copies the cache (its bytes, once)."""
        reader = self._open().fork()
        twin = copy.copy(self)
        twin._reader, twin._recent, twin._marks = reader, self._recent.copy(), weakref.WeakSet()
        twin._keeper, twin.transcript = None, self.transcript.copy()
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
        """Goes back to `mark`, which stays good for further rewinds; SessionError for another session's mark.

        A session that is kept in a store goes back only if its method stores no blocks; the next checkpoint keeps that.
        """
        reader = self._open()
        if self.method.answers:
            self._refuse_kept("rewind")
        if mark.closed or mark not in self._marks:
            raise SessionError("rewind: this mark is closed or of another session; use one of session.mark()")
        self._reader, self._recent, self._last, self.transcript = mark.copy()
        self._conversing = mark.conversing
        if self._keeper is not None:
            self._keeper.rewound = True
        reader.close()

    def reset(self) -> None:
        """Forgets everything read; marks stay good."""
        self._refuse_kept("reset")
        self._forget()

    def _forget(self) -> None:
        reader = self._open()
        fresh = reader.fresh()
        self.transcript = Transcript(self.tokenizer)
        self._reader, self._recent, self._last = fresh, Recent(self._recent.size), None
        self._conversing = False
        reader.close()

    def _refuse_kept(self, what: str) -> None:
        if self._keeper is not None:
            raise SessionError(f"{what}: a session that is kept in a store only goes forward; use a fork of it")

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

    def save(self, path: str | Path) -> Path:
        """Writes the session to one file, wholly or not at all; the path written. SaveError says why it failed.

        The file is bound to the model, the tokenizer and the method, and checksummed. SessionError for a session whose
        blocks lie in a store: `checkpoint` keeps it there, and `everlong sessions export` writes it to one file.
        """
        return save(self, path, self._keeper)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Any,
        chunk: int = CHUNK_TOKENS,
        host_budget: int | str | None = None,
        when_full: str = "refuse",
        allow_special: bool = False,
    ) -> Session:
        """The session saved at `path`, going on with `model` and budget (as in Session) as if it had never been away.

        InputError for a missing file, DamagedError for changed or missing bytes, ForeignError for a session
        of another model, tokenizer, method or version.
        """
        loaded = _loaded(model)
        method, tensors, meta = read(path, loaded.model, loaded.tokenizer)
        session = cls(loaded, method, chunk, host_budget=host_budget, when_full=when_full, allow_special=allow_special)
        try:
            session.load_state(tensors, meta)
            session._budgets.shrink(session._open(), session._reuse)
        except BaseException as error:
            session.close()
            if isinstance(error, LookupError):
                raise DamagedError(f"{path}: lacks {error} of a session; give another file") from error
            raise
        return session

    def close(self) -> None:
        """Frees the cache and the marks, and detaches the model if no other session uses it; may be called twice."""
        reader, self._reader, self._last = self._reader, None, None
        for mark in list(self._marks):
            mark.close()
        self._marks.clear()
        if reader is not None:
            reader.close()
        meaning, self._meaning = self._meaning, None
        if meaning is not None:
            meaning.close()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None and self._reader is not None and self._keeper is not None and self._keeper.writable:
                self.checkpoint()
        finally:
            self.close()

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
        memory = self._open().blocks
        for row in () if memory is None else memory.rows:
            row.forget_citations()
        question: list[Tensor] = []
        for ids, answering in with_tail(self._chunks(prompt), tail):
            if answering:
                question.append(ids)
            else:
                self._read(ids, every=False)
        if recall and question:
            asking.hold(self, torch.cat(question).tolist())
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

    def _reuse(self) -> None:
        if self._keeper is not None and self._keeper.writable:
            self.checkpoint()

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


def _loaded(model: Any) -> Loaded:
    """The model with its tokenizer and name; a plain transformers model has no tokenizer, a pair brings its own."""
    if isinstance(model, tuple | list) and len(model) == 2:
        model = Loaded(model[0], model[1], type(model[0]).__name__)
    found = model if isinstance(model, Loaded) else Loaded(model, None, type(model).__name__)
    check_complete(found.model, "model")
    if not isinstance(found.model, torch.nn.Module):
        got = type(found.model).__name__
        raise ConfigError(
            f"model: got {got}, expected what everlong.load gave, a transformers model, or it and its tokenizer"
        )
    return found


def _reader(model: Any, method: Method, chunk: int, keeper: Keeper | None) -> Reader:
    """What reads a stream with `method`; stored blocks go where `keeper` has its store."""
    forward = Forward(model)
    if isinstance(method, Recompute):
        return RecomputeReader(forward, method)
    make_store = HostStore if keeper is None else lambda: keeper.store
    files = None if keeper is None else keeper.recall_files
    return CacheReader.attached(forward, method, chunk, make_store, index_maker(model, method, files))
