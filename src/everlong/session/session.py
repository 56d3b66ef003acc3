"""A stream read and continued by a model, asked about what it read, and kept: what users work with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from transformers import ProcessorMixin

from everlong.engine import budgets
from everlong.engine.parallel import check_ranks
from everlong.engine.snapshot import Snapshot
from everlong.errors import CapabilityError, ConfigError, DamagedError, SessionError
from everlong.library.checkpoint import Checkpointer
from everlong.library.library import Library
from everlong.library.portable import read, save
from everlong.library.sentence_index import Meaning
from everlong.methods.base import Method
from everlong.models.encoder import SentenceEncoder
from everlong.models.load import Loaded
from everlong.models.sharding import check_complete
from everlong.session import forgetting
from everlong.session.answering import AnsweringStream
from everlong.session.forgetting import Forgotten
from everlong.session.keeping import Keeping, kept_cache, kept_reader

CHUNK_TOKENS = 512
"""Tokens read by one forward unless said otherwise."""


class Session(AnsweringStream):
    """One stream of tokens read by `model` with `method`, in memory that does not grow with the stream.

    With `store` (a folder) the session is kept there under `name`: stored blocks go to the disk, `checkpoint` keeps
    the rest, and `Session.open` goes on from it in any process. `host_budget` and `disk_budget` (bytes, or texts such
    as "512M") are hard limits for what is stored; `when_full` says what gives way: the input (refuse: BudgetError, and
    the session stays as it was), or stored blocks (oldest, least-used), which the report then counts as dropped.

    `model`: what `everlong.load` returns, a pair (model, tokenizer or processor), or a plain transformers model (then
    ids only). `chunk`: tokens
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
        self._checkpointer = None if store is None else Checkpointer.created(store, name, self)
        try:
            self._set_up(kept_reader(self.model, method, chunk, self._checkpointer), self._checkpointer is not None)
        except BaseException:
            if self._checkpointer is not None:
                self._checkpointer.undo()
            raise

    @property
    def kept(self) -> bool:
        """Whether the session is kept in a store, so that `checkpoint` can be called."""
        return self._checkpointer is not None and self._checkpointer.writable

    @property
    def keeping(self) -> Keeping:
        """What the session's store has of it."""
        return Keeping(self, self._checkpointer)

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
            folder = None if self._checkpointer is None else self._checkpointer.folder
            writable = self._checkpointer is not None and self._checkpointer.writable
            self._meaning = Meaning.open(encoder, folder, writable)
            if self._checkpointer is not None and writable:
                self._checkpointer.note_encoder(encoder.name)
        yield from self._meaning.update(self.transcript)

    def forget(self, what: str | tuple[int, int], start: int | None = None, end: int | None = None) -> Forgotten:
        """Forget a source, its characters `start` .. `end - 1`, or the tokens (first, end); say what went.

        The blocks that touch the span are dropped, with what of its neighbours they hold; in a kept session they are
        overwritten on the disk, unless a fork still needs them. Tokens read later keep traces of the span.
        CapabilityError for tokens that are still among the sinks, in the window or pending.
        """
        return forgetting.forget(self, forgetting.stretches(self, what, start, end), self._checkpointer)

    def checkpoint(self) -> None:
        """Keep the session in its store as it is now; SaveError leaves the checkpoint before it."""
        _ = self.runner  # a SessionError where it is closed
        if self._checkpointer is None:
            raise SessionError("checkpoint: this session has no store; give Session a store, or use save(path)")
        self._checkpointer.checkpoint(self)

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
        """The session kept in the folder `store` under `name`, as its last checkpoint left it and what was noted since.

        `read_only`: what it reads from now on is not kept, and another process may write to it meanwhile. Budgets, as
        in Session, hold for as long as it is open. BudgetError if what is stored passes them and nothing may give way.
        """
        session = cls.restored(store, name, model, chunk, read_only, host_budget, disk_budget, when_full, allow_special)
        try:
            for _ in session.keeping.replay():
                pass
        except BaseException:
            session.close()
            raise
        return session

    @classmethod
    def restored(
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
        """As `open`, but what was noted since the last checkpoint is yet to be read again (`keeping.replay`)."""
        library = Library(store, create=False)
        checkpointer = Checkpointer(library, library.entry(name), writable=not read_only)
        try:
            session = cls.__new__(cls)
            loaded = _loaded(model)
            session._take(loaded, checkpointer.entry.made_method(), chunk, allow_special)
            check_ranks(session.model, session.method, stored=True)
            session._budget = budgets.given(session.method, not read_only, host_budget, disk_budget, when_full)
            session._checkpointer = checkpointer
            checkpointer.check(session)
            session._set_up(kept_reader(session.model, session.method, chunk, checkpointer), remembers=True)
            checkpointer.restore(session)
            session._budgets.shrink(session.runner, session._reuse)
        except BaseException:
            checkpointer.close()
            raise
        return session

    def _refuse_kept(self, what: str) -> None:
        if self._checkpointer is not None:
            raise SessionError(f"{what}: a session that is kept in a store only goes forward; use a fork of it")

    def save(self, path: str | Path) -> Path:
        """Write the session to one file, wholly or not at all; the path written. SaveError says why it failed.

        The file is bound to the model, the tokenizer and the method, and checksummed. SessionError for a session whose
        blocks lie in a store: `checkpoint` keeps it there, and `everlong sessions export` writes it to one file.
        """
        kept = self._checkpointer
        return save(self, path, None if kept is None else (kept.entry.name, kept.library.folder))

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
            session._budgets.shrink(session.runner, session._reuse)
        except BaseException as error:
            session.close()
            if isinstance(error, LookupError):
                raise DamagedError(f"{path}: lacks {error} of a session; give another file") from error
            raise
        return session

    def offload(self) -> None:
        """Frees the cache until the session is next used; one that is kept in a store is checkpointed for it."""
        kept = self._checkpointer
        if kept is None or not kept.writable:
            super().offload()
        elif self._runner is not None and self._runner.away is None and self.seen_tokens:
            self.checkpoint()
            self.runner.offload(lambda: kept_cache(kept))

    def close(self) -> None:
        """Free the cache and the marks, and detach the model if no other session uses it; may be called twice."""
        super().close()
        checkpointer = self._checkpointer
        self._checkpointer = None
        if checkpointer is not None:
            checkpointer.close()

    def __exit__(self, *exc: object) -> None:
        try:
            if (
                exc[0] is None
                and self._runner is not None
                and self._checkpointer is not None
                and self._checkpointer.writable
            ):
                self.checkpoint()
        finally:
            self.close()

    def _reuse(self) -> None:
        if self._checkpointer is not None and self._checkpointer.writable:
            self.checkpoint()

    def fork(self) -> Self:
        """An independent session that has read the same, kept nowhere; shares the model, copies the cache (once)."""
        twin = super().fork()
        twin._checkpointer = None
        return twin

    def rewind(self, mark: Snapshot) -> None:
        """Go back to `mark`, which stays good for further rewinds; SessionError for another session's mark.

        A session that is kept in a store goes back only if its method stores no blocks; the next checkpoint keeps that.
        """
        _ = self.runner  # a SessionError where it is closed
        if self.method.answers:
            self._refuse_kept("rewind")
        super().rewind(mark)
        if self._checkpointer is not None:
            self._checkpointer.rewound = True

    def reset(self) -> None:
        """Forget everything read; marks stay good."""
        self._refuse_kept("reset")
        super().reset()


def _paired(model: Any, beside: Any) -> Loaded:
    """A model with its tokenizer, or with its processor, which has one."""
    name = type(model).__name__
    if isinstance(beside, ProcessorMixin):
        return Loaded(model, getattr(beside, "tokenizer", None), name, processor=beside)
    return Loaded(model, beside, name)


def _loaded(model: Any) -> Loaded:
    """The model with its tokenizer and name; a plain transformers model has no tokenizer, a pair brings its own."""
    if isinstance(model, tuple | list) and len(model) == 2:
        model = _paired(*model)
    found = model if isinstance(model, Loaded) else Loaded(model, None, type(model).__name__)
    check_complete(found.model, "model")
    if not isinstance(found.model, torch.nn.Module):
        got = type(found.model).__name__
        raise ConfigError(
            f"model: got {got}, expected what everlong.load gave, a transformers model, or it and its tokenizer"
        )
    return found
