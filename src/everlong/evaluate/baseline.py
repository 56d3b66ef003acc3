"""Plain transformers as a row of every table: DynamicCache, and prompts cut in the middle where they are too long.

The cut is LongBench's: of a prompt with more tokens than the model was trained for, less those to be written, the
first half and the last half of what fits are kept. How many tokens were left out stands in the record.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin

from everlong.engine.generation import end_tokens
from everlong.engine.logprobs import logprobs
from everlong.evaluate.stream import Clock, Stream, too_long, trained_length
from everlong.models.internals import device_of
from everlong.models.load import Loaded
from everlong.text.decode import Decoder, StopGuard
from everlong.text.tokenize import token_ids

NAME = "transformers"


def stock_copy(model: Any) -> Any:
    """A second model over the same weights in the same memory, which attaching the first one does not touch."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


class PeerStream(Stream):
    """All ids are kept; the model sees them when it is asked, on from what its cache has in common with the prompt."""

    session = None

    def __init__(self, loaded: Loaded, clock: Clock, chunk: int) -> None:
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.clock = clock
        self.chunk = chunk
        self.limit = trained_length(self.model)
        self.ids: list[int] = []
        self._ends = end_tokens(self.model, self.tokenizer)
        self._cache, self._cached = DynamicCache(), list[int]()

    @property
    def seen_tokens(self) -> int:
        """Ids so far."""
        return len(self.ids)

    def feed(self, text: str, source: str = "text", template: bool = False) -> int:
        """Keep the ids."""
        new = self._tokens(text, template)
        self.ids = self.ids + new
        self.clock.tick(len(text))
        return len(new)

    def ask(
        self, question: str, max_new_tokens: int, stop: Sequence[str] = (), keep: bool = True, template: bool = False
    ) -> str:
        """The likeliest answer, after as much of the prompt as fits."""
        if not keep:
            with self.forked() as twin:
                return twin.ask(question, max_new_tokens, stop, template=template)
        prompt = self.ids + self._tokens(question, template)
        room = self.limit - max_new_tokens
        shown = prompt if len(prompt) <= room else prompt[: room // 2] + prompt[room // 2 - room :]
        with self.clock.running(), torch.inference_mode():
            text, written = self._written(self._prefilled(shown), max_new_tokens, stop)
        self.ids = prompt + written
        self.clock.truncated_tokens += len(prompt) - len(shown)
        self.clock.prompt_tokens = len(prompt)
        self.clock.new_tokens += len(written)
        self.clock.tick(len(question))
        return text

    @contextmanager
    def forked(self) -> Iterator[Stream]:
        """This one, which forgets the ids that come; its cache goes on from what they have in common."""
        ids = self.ids
        try:
            yield self
        finally:
            self.ids = ids

    def score(self, text: str | Sequence[int]) -> Iterator[Tensor]:
        """Log-probabilities, as far as the model was trained: TooLongError, before anything is read, beyond."""
        new = self._tokens(text) if isinstance(text, str) else list(text)
        too_long(len(self.ids) + len(new), self.limit)
        with self.clock.running(), torch.inference_mode():
            before = self._prefilled(self.ids) if self.ids else None
        for at in range(0, len(new), self.chunk):
            piece = new[at : at + self.chunk]
            with self.clock.running(), torch.inference_mode():
                after = self._forward(piece, every=True)
                found = logprobs(before, after, torch.tensor(piece))
            before = after[-1]
            self.ids = self.ids + piece
            self.clock.prompt_tokens = len(self.ids)
            self.clock.tick(len(piece))
            yield found

    def predictions(self, context: list[int], ids: list[int]) -> Iterator[Tensor]:
        """The logits before each of `ids` where they follow `context`, in pieces; the ids of the stream stay.

        What the cache has in common with the context is not read again.
        """
        with self.clock.running(), torch.inference_mode():
            before = self._prefilled(context)
        yield before[None]
        for at in range(0, len(ids) - 1, self.chunk):
            with self.clock.running(), torch.inference_mode():
                after = self._forward(ids[:-1][at : at + self.chunk], every=True)
            yield after

    def report(self) -> dict[str, Any]:
        """Ids, and the bytes of the cache."""
        held = 0
        for layer in self._cache.layers:
            if isinstance(layer, CacheLayerMixin) and layer.is_initialized:
                assert layer.keys is not None
                assert layer.values is not None
                held += sum(x.numel() * x.element_size() for x in (layer.keys, layer.values))
        return {"method": NAME, "seen_tokens": self.seen_tokens, "bytes": {"device": held, "host": 0, "disk": 0}}

    def _tokens(self, text: str, template: bool = False) -> list[int]:
        return token_ids(self.tokenizer, text, special=not self.ids, allow_special=template)

    def _prefilled(self, prompt: list[int]) -> Tensor:
        """The logits after the prompt, whose ids the cache then holds."""
        pairs = zip(self._cached, prompt[:-1], strict=False)
        common = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self._cached), len(prompt) - 1))
        if common < len(self._cached):
            self._cache.crop(common - len(self._cached))
            self._cached = self._cached[:common]
        logits = None
        for at in range(common, len(prompt), self.chunk):
            logits = self._forward(prompt[at : at + self.chunk], every=False)
        assert logits is not None
        return logits[-1]

    def _forward(self, ids: list[int], every: bool) -> Tensor:
        """The logits after each of the ids, or after the last."""
        device = device_of(self.model)
        out = self.model(
            torch.tensor(ids, device=device)[None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=0 if every else 1,
        )
        self._cached += ids
        return out.logits[0]

    def _written(self, logits: Tensor, max_new_tokens: int, stop: Sequence[str]) -> tuple[str, list[int]]:
        """Text and ids of a greedy answer, which the cache then holds."""
        guard = StopGuard(tuple(stop))
        decoder = Decoder(self.tokenizer)
        texts = []
        written = []
        while len(written) < max_new_tokens and not guard.stopped:
            token = int(logits.argmax())
            if token in self._ends:
                break
            written.append(token)
            texts.append(guard.push(decoder.push(token), decoder.spelt(token)))
            logits = self._forward([token], every=False)[-1]
        if not guard.stopped:
            texts.append(guard.push(decoder.flush()) + guard.flush())
        return "".join(texts), written
