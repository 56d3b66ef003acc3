"""Scoring by recomputation: the last W tokens run afresh through the plain model for every new token.

The slow gold standard of StreamingLLM (arXiv 2309.17453, figure 1c): token t is predicted from tokens
t-W..t-1 at positions 0..W-1. Nothing is cached but the last W ids, so nothing can be attached or generated.

Letters: T new tokens, W window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.cache.report import MemoryReport
from everlong.engine.offload import OffloadedCache
from everlong.engine.recall_index import index_maker
from everlong.engine.runner import CacheRunner, Forward, State, StreamRunner
from everlong.errors import CapabilityError, ConfigError
from everlong.methods.base import Method
from everlong.methods.blocks.recall.files import RecallFiles
from everlong.methods.blocks.recall.scout import Queries
from everlong.methods.recompute import Recompute
from everlong.storage.base import HostStore, Store

_BATCH_TOKENS = 4096
"""Tokens of all windows that one forward runs over."""


class RecomputeRunner:
    """Keeps the last W ids of the stream; each prediction is made from them alone.

    ConfigError for a window longer than the model was trained on.
    """

    away: OffloadedCache | None = None

    def __init__(self, forward: Forward, method: Recompute) -> None:
        trained = getattr(forward.model.config.get_text_config(), "max_position_embeddings", None)
        if trained and method.window > trained:
            raise ConfigError(
                f"window={method.window}: the model was trained on {trained} tokens; use at most {trained}"
            )
        self._forward = forward
        self._method = method
        self._seen_and_held: tuple[int, Tensor] = (0, torch.empty(0, dtype=torch.int64))

    @property
    def seen_tokens(self) -> int:
        """Tokens read so far."""
        return self._seen_and_held[0]

    @property
    def chunk_limit(self) -> int:
        """Tokens read at once; scoring them takes memory for as many predictions."""
        return max(1, self._method.window)

    def read(self, ids: Int[Tensor, " T"], every: bool, answering: bool = False) -> Float[Tensor, "rows V"]:
        """The logits after every token of `ids`; without `every` none, since `predict` makes them when asked."""
        seen, held = self._seen_and_held
        context = torch.cat([held, ids])
        logits = self._predictions(context, len(ids)) if every else self._nothing()
        self._seen_and_held = (seen + len(ids), context[-self._method.window :].clone())
        return logits

    def predict(self) -> Float[Tensor, " V"] | None:
        """The prediction after the last token, from the tokens that are held."""
        held = self._seen_and_held[1]
        return self._forward(held[None], 1, use_cache=False)[0, -1] if len(held) else None

    def fork(self) -> RecomputeRunner:
        """A reader with the same ids."""
        twin = self.fresh()
        twin._seen_and_held = self._seen_and_held
        return twin

    def fresh(self) -> RecomputeRunner:
        """A reader that has read nothing."""
        return RecomputeRunner(self._forward, self._method)

    def report(self) -> MemoryReport:
        """Window and dropped tokens; the bytes are those of the ids."""
        seen, held = self._seen_and_held
        return MemoryReport(
            method=str(self._method),
            seen_tokens=seen,
            sink_tokens=0,
            window_tokens=len(held),
            stored_tokens=0,
            dropped_tokens=seen - len(held),
            retrieved_tokens=0,
            bytes={"device": 0, "host": held.numel() * held.element_size(), "disk": 0},
        )

    def scout(self, ids: Int[Tensor, " new"]) -> dict[int, Queries]:
        """Refused: there is no recall index."""
        raise CapabilityError(f"recall: {self._method} stores nothing; use everlong.Blocks")

    def raw_keys(self, layer: int, first: int, end: int) -> Float[Tensor, "G n D"]:
        """Refused: there are no keys."""
        raise CapabilityError(f"recall: {self._method} keeps no keys; use everlong.Blocks")

    def state(self, sealed: bool = True) -> State:
        """The ids that are held, and the count."""
        seen, held = self._seen_and_held
        return {"held": held}, {"seen_tokens": seen}

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from a state."""
        self._seen_and_held = (int(meta["seen_tokens"]), tensors["held"].to("cpu", torch.int64))

    def offload(self, load: Callable[[], State] | None = None) -> None:
        """Nothing: there are only ids."""

    def reload(self) -> None:
        """Nothing: they are here."""

    @property
    def blocks(self) -> None:
        """None: nothing is stored."""

    @property
    def planned_bytes(self) -> int:
        """0: there are no blocks beside which it would count."""
        return 0

    def close(self) -> None:
        """Nothing is held of the model."""

    def _predictions(self, context: Tensor, new: int) -> Tensor:
        """The logits after each of the last `new` tokens of `context`, each from the W tokens that end with it.

        Those of the first W tokens of a stream come from one dense pass, which is the same thing.
        """
        window = self._method.window
        dense = max(0, min(len(context), window) - (len(context) - new))
        parts = [self._forward(context[None, : min(len(context), window)], dense, use_cache=False)[0]] if dense else []
        if dense < new:
            windows = context[-(window + new - dense - 1) :].unfold(0, window, 1)
            batches = windows.split(max(1, _BATCH_TOKENS // window))
            parts += [self._forward(rows, 1, use_cache=False)[:, 0] for rows in batches]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _nothing(self) -> Tensor:
        return torch.empty(0, 0, device=self._forward.device)


def make_runner(
    model: Any,
    method: Method,
    chunk: int,
    make_store: Callable[[], Store] = HostStore,
    recall_files: RecallFiles | None = None,
) -> StreamRunner:
    """What reads a stream with `method`: stored blocks go where `make_store` says, the recall index to its files."""
    forward = Forward(model)
    if isinstance(method, Recompute):
        return RecomputeRunner(forward, method)
    return CacheRunner.attached(forward, method, chunk, make_store, index_maker(model, method, recall_files))
