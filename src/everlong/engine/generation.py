"""One answer as it is written: tokens are drawn, read back, and given out as text."""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from everlong.engine.grammar import Grammar, GrammarState
from everlong.engine.sampling import Sampling
from everlong.engine.token_odds import TokenOdds, odds_of
from everlong.errors import SessionError
from everlong.models.internals import device_of
from everlong.text.decode import Decoder, StopGuard
from everlong.text.transcript import ANSWER

if TYPE_CHECKING:
    from everlong.engine.writable import Writable

Finish = Literal["length", "end", "stop", "closed"]


@dataclass(frozen=True)
class GenerationResult:
    """What was written."""

    text: str
    """The decoded tokens, cut before a stop string; without the tokenizer's special tokens."""
    token_ids: list[int]
    """The tokens that the session read back, those of a stop string included, an end token not."""
    finish: Finish
    """Why it ended: max_new_tokens were written, an end token was drawn, a stop string came, or it was left early."""
    seconds_per_token: float
    """Median over the tokens; NaN without tokens."""
    odds: list[TokenOdds] = field(default_factory=list, repr=False)
    """How likely each token was, where `logprobs` asked for it."""


class GenerationStream(Iterator[str]):
    """An answer of `session`, as an iterator of pieces of text.

    Each piece is given out after its tokens were read back. Text that may be the beginning of a stop string,
    or of a character, is held until it is decided. Leaving early, by `close()` or by an exception, keeps
    `result` and the session in agreement.
    """

    def __init__(self, session: Writable, sampling: Sampling) -> None:
        self._session = session
        self._sampling = sampling
        self._ends = end_tokens(session.model, session.tokenizer) | set(sampling.ends)
        self._decoder, self._guard = Decoder(session.tokenizer), StopGuard(sampling.stops)
        self._start = session.seen_tokens
        self._generator = sampling.generator(device_of(session.model))
        self._grammar = None if sampling.grammar is None else self._followed(sampling.grammar)
        self._drawn = -1
        self._decoded = self._given = 0
        self._begun = 0.0
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._seconds: list[float] = []
        self._odds: list[TokenOdds] = []
        self._finish: Finish = "closed"
        self._complete = False
        self._pause: tuple[int, Callable[[Sequence[int]], None]] | None = None
        self._pieces = self._write()

    def _followed(self, grammar: Grammar) -> GrammarState:
        vocabulary = int(self._session.model.get_input_embeddings().weight.shape[0])
        return GrammarState(grammar, self._session.tokenizer, vocabulary, self._ends)

    def every(self, tokens: int, call: Callable[[Sequence[int]], None]) -> None:
        """Call `call` with the ids written so far whenever `tokens` more were read back, before the next is drawn."""
        self._pause = tokens, call

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the answer here."""
        self._pieces.close()
        self._end()

    def finish(self) -> str:
        """End the answer where it has been drawn to; the text that was held back."""
        self._end()
        return self._new_text()

    @property
    def result(self) -> GenerationResult:
        """What was written so far; when it was left early, all tokens that the session read."""
        if inspect.getgeneratorstate(self._pieces) == inspect.GEN_CLOSED:
            self._end()
        median = statistics.median(self._seconds) if self._seconds else math.nan
        return GenerationResult(
            "".join(self._texts), list(self._ids), self._finish, median, self._odds[: len(self._ids)]
        )

    def _write(self) -> Generator[str, None, None]:
        """The pieces of text, and at the end what was held back."""
        try:
            while (token := self.draw()) is not None:
                self._session.feed([token], answering=True, source=ANSWER)
                if piece := self.took():
                    yield piece
        finally:
            self._end()
        if rest := self._new_text():
            yield rest

    def draw(self) -> int | None:
        """The next token, to be read back by the session; None where the answer has ended, which sets why."""
        self._begun = time.perf_counter()
        if self._guard.stopped:
            self._finish = "stop"
        elif len(self._ids) >= self._sampling.max_new_tokens:
            self._finish = "length"
        elif self._grammar is not None and self._grammar.over:
            self._finish = "end"
        else:
            self._paused()
            self._drawn = self._pick()
            if self._drawn not in self._ends:
                return self._drawn
            self._finish = "end"
        return None

    def _pick(self) -> int:
        session = self._session
        prediction = session.prediction
        if prediction is None or session.seen_tokens != self._start + len(self._ids):
            raise SessionError("the session read something else while it answered; finish the answer first")
        allowed = None if self._grammar is None else self._grammar.allowed(len(prediction))
        token = self._sampling.pick(prediction, session.recent.ids(), self._generator, self._ids, allowed)
        if self._sampling.logprobs is not None:
            del self._odds[len(self._ids) :]
            self._odds.append(odds_of(prediction, token, self._sampling.logprobs))
        return token

    def took(self) -> str:
        """Take down the drawn token, which was read back; the text that is decided by it."""
        self._ids.append(self._drawn)
        if self._grammar is not None:
            self._grammar.take(self._drawn)
        self._seconds.append(time.perf_counter() - self._begun)
        self._decode()
        return self._new_text()

    def _new_text(self) -> str:
        given = self._given
        self._given = len(self._texts)
        return "".join(self._texts[given:])

    def _paused(self) -> None:
        if self._pause is not None:
            tokens, call = self._pause
            if self._ids and len(self._ids) % tokens == 0:
                call(self._ids)

    def _decode(self) -> None:
        """Add the text of the tokens that were not decoded yet."""
        # More than one only where an interrupt came between taking a token down and decoding it.
        for token in self._ids[self._decoded :]:
            self._decoded += 1
            self._texts.append(self._guard.push(self._decoder.push(token), self._decoder.spelt(token)))

    def _end(self) -> None:
        """Take in the token that an interrupt cut off after it was read, and the text that was held back."""
        if self._complete:
            return
        if self._session.seen_tokens == self._start + len(self._ids) + 1:
            self._ids.append(self._drawn)
        if not self._guard.stopped:
            self._decode()
            self._texts.append(self._guard.push(self._decoder.flush()) + self._guard.flush())
        self._complete = True


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer, as the generation config, the config and the tokenizer name them."""
    configs = [model.generation_config, model.config.get_text_config(), tokenizer]
    found = [getattr(config, "eos_token_id", None) for config in configs if config is not None]
    ids = [i for value in found if value is not None for i in (value if isinstance(value, list) else [value])]
    return frozenset(int(i) for i in ids)
