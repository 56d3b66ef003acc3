"""A stream that a model writes on: scores, answers, marks to come back to, and what questions need of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.engine.generation import GenerationResult, GenerationStream
from everlong.engine.logprobs import at_most, logprobs
from everlong.engine.parallel import check_draw
from everlong.engine.runner import State
from everlong.engine.sampling import Sampling
from everlong.engine.snapshot import Snapshot
from everlong.engine.stream import TokenStream, chunks_of, let_go
from everlong.errors import CapabilityError, InputError, SessionError
from everlong.library.sentence_index import Meaning
from everlong.methods.base import Method
from everlong.methods.blocks.pins import Pin
from everlong.models.internals import device_of
from everlong.models.load import Loaded
from everlong.ops.spans import Ints
from everlong.text.inputs import Input, TokenHistory, with_tail
from everlong.text.transcript import PROMPT, TokenRange, Transcript
from everlong.text.words import word_classes

ANSWERING_TOKENS = 256
"""How many of a prompt's last tokens choose for themselves what they remember, at most."""


class WritingStream(TokenStream):
    """A stream that is scored, written on, marked to come back to, and asked: what questions and chats stand on."""

    @property
    def meaning(self) -> Meaning | None:
        """The vectors of what was read, where a sentence encoder was given."""
        return self._meaning

    def score_stream(self, x: Input, max_tokens: int | None = None) -> Iterator[Float[Tensor, " tokens"]]:
        """Read `x` and give the log-probabilities of its tokens, one tensor for each chunk, in bounded memory.

        Values are natural logarithms in float32 on the model's device, each given all that came before; NaN
        for the very first token of a session. Stops after `max_tokens`. The session holds what was given out,
        also when the iterator is left early.
        """
        for ids in at_most(chunks_of(self, x), max_tokens):
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
        found = list(chunks_of(self, x))
        device = device_of(self.model)
        total = sum(map(len, found))
        scored = torch.empty(total, device=device)
        rows = None
        start = 0
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

    def generate(self, prompt: Input | None = None, **sampling: Any) -> GenerationResult:
        """The answer to `prompt` (text, ids, or None to go on), written to its end.

        `sampling` are the fields of `Sampling`: max_new_tokens, temperature, top_p, top_k,
        repetition_penalty, stop, seed. Ends at the model's end tokens, which are neither returned nor read;
        afterwards the session holds the prompt and all returned tokens.
        """
        answer = self.stream(prompt, **sampling)
        for _ in answer:
            pass
        return answer.result

    def stream(self, prompt: Input | None = None, **sampling: Any) -> GenerationStream:
        """Like `generate`, as an iterator of pieces of text; its `result` grows with them.

        The prompt is read at once. Leaving the iterator early (`close()`, an interrupt) is allowed: the
        session then holds the tokens in `result.token_ids`. InputError where there is nothing to go on from.
        """
        settings = Sampling(**sampling)
        check_writes(self, settings)
        if prompt is not None:
            self.read_prompt(prompt)
        return begin_answer(self, settings)

    @property
    def word_classes(self) -> Ints:
        """For each id the smallest id of the same word: what questions and passages are compared by."""
        if self._word_classes is None:
            self._word_classes = word_classes(self.tokenizer, self.vocabulary)
        return self._word_classes

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The spans that are pinned, in their order in the stream; nothing before the first token."""
        rows = self.stored("pins").rows
        return rows[0].pins if rows else ()

    def forget_recent(self, first: int, end: int) -> None:
        """Put a filler in the place of the ids `first` .. `end - 1`, wherever they were taken down."""
        if self._meaning is not None:
            self._meaning.forget([TokenRange(first, end)])
        self.transcript.forget(first, end)
        self.recent.forget(first, end, self.transcript.filler())

    def drop_blocks(self, blocks: Iterable[int]) -> None:
        """Let these stored blocks never come back; the report counts their tokens as dropped."""
        memory = self.runner.blocks
        for row in () if memory is None else memory.rows:
            row.drop(blocks)

    def mark(self) -> Snapshot:
        """The present state, to come back to with `rewind`; costs a copy of the cache."""
        transcript = self.transcript.copy()
        mark = Snapshot(self.runner.fork(), self.recent.copy(), self.prediction, transcript, self._conversing)
        self._marks.add(mark)
        return mark

    def rewind(self, mark: Snapshot) -> None:
        """Go back to `mark`, which stays good for further rewinds; SessionError for another session's mark."""
        runner = self.runner
        if mark.closed or mark not in self._marks:
            raise SessionError("rewind: this mark is closed or of another session; use one of session.mark()")
        self._runner, self.recent, self.last, self.transcript = mark.copy()
        self._conversing = mark.conversing
        runner.close()

    def reset(self) -> None:
        """Forget everything read; marks stay good."""
        self._forget()

    def _forget(self) -> None:
        runner = self.runner
        fresh = runner.fresh()
        self.transcript = Transcript(self.tokenizer)
        self._runner, self.recent, self.last = fresh, TokenHistory(self.recent.size), None
        self._conversing = False
        runner.close()

    def state(self, sealed: bool = True) -> State:
        """Tensors by name and JSON-able values: all that the session needs to go on.

        Not `sealed`: without the blocks and the ids that a store keeps.
        """
        runner = self.runner
        last = self.prediction
        tensors, meta = runner.state(sealed)
        kept = {f"cache.{name}": tensor for name, tensor in tensors.items()} | {"recent": self.recent.ids()}
        facts: dict[str, Any] = {"cache": meta, "seen_tokens": self.seen_tokens}
        facts["conversing"] = self.conversing
        if sealed and self.remembers:
            read, facts["sources"] = self.transcript.state()
            kept |= read
        return kept | ({} if last is None else {"prediction": last}), facts

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from the `state` of a session of the same model and method, forgetting what was read here."""
        self._forget()
        runner = self.runner
        runner.load_state(*cache_state(tensors, meta))
        self.recent = TokenHistory.restored(self.recent.size, tensors["recent"], meta["seen_tokens"])
        if "sources" in meta:
            self.transcript.load_state(tensors, meta["sources"])
        self._conversing = meta.get("conversing")
        last = tensors.get("prediction")
        self.last = None if last is None else last.to(device_of(self.model))

    def read_prompt(self, prompt: Input, recall: bool = True) -> None:
        """Read a prompt; its last tokens as part of the answer, where the method tells the two apart.

        `recall`: these tokens are put to the voters first, and what they choose is held until other text is read.
        """
        for ids, answering in self.prompt_pieces(prompt, recall):
            self.read_piece(ids, answering)

    def prompt_pieces(self, prompt: Input, recall: bool = True) -> Iterator[tuple[Tensor, bool]]:
        """The ids of a prompt as (ids, answering), to be read in this order while nothing else is."""
        tail = ANSWERING_TOKENS if self.method.answers else 0
        self.source = PROMPT
        memory = self.runner.blocks
        for row in () if memory is None else memory.rows:
            row.forget_citations()
        question: list[Tensor] = []
        for ids, answering in with_tail(chunks_of(self, prompt), tail):
            if answering:
                question.append(ids)
            else:
                yield ids, False
        if recall and question:
            self._hold(torch.cat(question).tolist())
        for ids in question:
            yield ids, True

    def _score(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read one chunk; its log-probabilities and the logits after each of its tokens."""
        before = self.prediction
        after = self.read_piece(ids, answering=False, every=True)
        return logprobs(before, after, ids), after

    def _hold(self, question: list[int]) -> None:
        """Let what is read next attend to what a question recalls; here to nothing."""
        let_go(self.runner)

    def beside(self, method: Method) -> WritingStream:
        """An empty stream over the same model, read with another method."""
        return WritingStream(
            Loaded(self.model, self.tokenizer, self.name, processor=self.processor), method, self.chunk
        )


def cache_state(tensors: dict[str, Tensor], meta: dict[str, Any]) -> State:
    """What of a stream's state is its cache's."""
    found = {name.removeprefix("cache."): part for name, part in tensors.items() if name.startswith("cache.")}
    return found, meta["cache"]


def check_writes(stream: WritingStream, settings: Sampling) -> None:
    """CapabilityError where an answer cannot be written on a stream with these settings."""
    if not stream.method.streams:
        raise CapabilityError(f"generate: {stream.method} can only score; use everlong.Sinks or Window to generate")
    if settings.stops and stream.tokenizer is None:
        raise CapabilityError("stop: this session has no tokenizer to find strings with; leave stop out")
    if settings.grammar is not None and stream.tokenizer is None:
        raise CapabilityError("grammar: this session has no tokenizer to spell it with; leave grammar out")
    check_draw(stream.model, settings)


def begin_answer(stream: WritingStream, settings: Sampling) -> GenerationStream:
    """An answer behind what was read; InputError where there is nothing to go on from."""
    if stream.prediction is None:
        lost = "the last prediction was lost by an interrupt" if stream.seen_tokens else "the session is empty"
        raise InputError(f"generate: {lost} and there is no prompt; give a prompt of at least one token")
    return GenerationStream(stream, settings)
