"""How a session reads tokens: through an attached cache (here) or by recomputation (recompute.py)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.cache.raw_keys import raw_keys
from everlong.cache.report import MemoryReport
from everlong.cache.state import load_stream, stream_state
from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.engine.offload import OffloadedCache, State
from everlong.engine.recall_index import index_maker
from everlong.hooks.attach import attach
from everlong.methods.base import Method
from everlong.methods.blocks.memory import BlockMemory
from everlong.methods.blocks.recall.index import MakeRecall, no_recall
from everlong.methods.blocks.recall.scout import LONGEST, Queries, Scout, ScoutDone
from everlong.models.internals import device_of
from everlong.storage.base import HostStore, Store


@runtime_checkable
class StreamRunner(Protocol):
    """What has read a stream and can read on; `read` either happens wholly or not at all."""

    away: OffloadedCache | None
    """What was offloaded and is not back yet; until then only `seen_tokens`, `reload` and `close` may be asked for."""

    @property
    def seen_tokens(self) -> int:
        """Tokens read so far."""
        ...

    @property
    def chunk_limit(self) -> int:
        """Tokens that one `read` takes at most."""
        ...

    def read(self, ids: Int[Tensor, " new"], every: bool, answering: bool) -> Float[Tensor, "rows vocabulary"]:
        """Read `ids` (int64, CPU); the predictions after each of them, or (not `every`) after the last, or none.

        `answering`: as part of an answer, each token choosing for itself what it remembers.
        """
        ...

    def predict(self) -> Float[Tensor, " vocabulary"] | None:
        """The prediction after the last token computed afresh; None where that would need the token again."""
        ...

    def fork(self) -> StreamRunner:
        """An independent reader that has read the same."""
        ...

    def fresh(self) -> StreamRunner:
        """A reader of the same model and method that has read nothing."""
        ...

    def report(self) -> MemoryReport:
        """What is kept of what was read."""
        ...

    def state(self, sealed: bool = True) -> State:
        """All that is needed to go on; not `sealed`: without blocks that a store on disk keeps."""
        ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from a state of the same model and method; only for a reader that has read nothing."""
        ...

    def offload(self, load: Callable[[], State] | None = None) -> None:
        """Frees the cache; `load` gives its unsealed state when it comes back, which is else kept in host memory."""
        ...

    def reload(self) -> None:
        """Brings an offloaded cache back."""
        ...

    @property
    def blocks(self) -> BlockMemory | None:
        """The block memory, if the method has one."""
        ...

    @property
    def planned_bytes(self) -> int:
        """Bytes that the state without sealed blocks takes at most; 0 if that is not bounded."""
        ...

    def scout(self, ids: Int[Tensor, " new"]) -> dict[int, Queries]:
        """The queries that `ids` would have at the layers of the recall index, by layer; changes nothing."""
        ...

    def raw_keys(self, layer: int, first: int, end: int) -> Float[Tensor, "G n D"]:
        """Keys of tokens that are in no block yet, before their rotation."""
        ...

    def close(self) -> None:
        """Give memory and the hold on the model back."""
        ...


class Forward:
    """A model called for logits, in inference mode; the head runs only over the rows that are wanted."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = device_of(model)
        self._trims = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def __call__(self, ids: Int[Tensor, "rows tokens"], keep: int, **extra: Any) -> Tensor:
        """The logits [rows, keep, vocabulary] at the last `keep` positions."""
        if self._trims:
            extra["logits_to_keep"] = keep
        logits = self.model(input_ids=ids.to(self.device), **extra).logits
        return logits if logits.shape[1] == keep else logits[:, -keep:].clone()

    @torch.inference_mode()
    def at(self, ids: Int[Tensor, "1 tokens"], places: Int[Tensor, " rows"], **extra: Any) -> Tensor:
        """The logits [rows, vocabulary] behind these places of a single row."""
        places = places.to(self.device)
        if self._trims:
            extra["logits_to_keep"] = places
        logits = self.model(input_ids=ids.to(self.device), **extra).logits[0]
        return logits if self._trims else logits[places]


class CacheRunner:
    """Reads through the method's cache, attached to the model for as long as the reader lives."""

    def __init__(
        self,
        forward: Forward,
        method: Method,
        cache: StreamCache,
        make_store: Callable[[], Store] = HostStore,
        make_recall: MakeRecall = no_recall,
    ) -> None:
        self.forward = forward
        self._method = method
        self._cache = cache
        self.away: OffloadedCache | None = None
        self._make_store = make_store
        self._make_recall = make_recall

    @classmethod
    def attached(
        cls,
        forward: Forward,
        method: Method,
        chunk: int,
        make_store: Callable[[], Store] = HostStore,
        make_recall: MakeRecall = no_recall,
    ) -> CacheRunner:
        """A reader that has read nothing, with room for chunks of `chunk`; AttachError for a model of another kind."""
        with attach(forward.model, method) as handle:
            cache = handle.new_cache(min(chunk, handle.plan.frame_length), make_store, make_recall)
            return cls(forward, method, cache, make_store, make_recall)

    @property
    def seen_tokens(self) -> int:
        """Tokens read so far."""
        return self._cache.stream.seen_tokens if self.away is None else self.away.seen_tokens

    @property
    def chunk_limit(self) -> int:
        """A chunk never passes the length that the model was trained on, nor what the blocks can take at once."""
        trained = self._cache.stream.plan.frame_length
        memory = self.blocks
        return trained if memory is None else min(trained, memory.chunk_limit)

    @property
    def model(self) -> Any:
        """The model that reads."""
        return self.forward.model

    def answering(self, answering: bool) -> CachedStream:
        """The stream itself, told whether its next tokens answer."""
        memory = self.blocks
        if memory is not None:
            memory.answering = answering
        return self._cache.stream

    def read(
        self, ids: Int[Tensor, " new"], every: bool, answering: bool, image: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "rows vocabulary"]:
        """The logits after every token of `ids`, or after the last one; `image` is what goes with an image's tokens."""
        self.answering(answering)
        keep = len(ids) if every else 1
        extra = {name: x.to(self.forward.device) for name, x in (image or {}).items()}
        return self.forward(ids[None], keep, past_key_values=self._cache, use_cache=True, **extra)[0]

    def scout(self, ids: Int[Tensor, " new"]) -> dict[int, Queries]:
        """The queries that `ids` would have at the layers of the recall index, by layer; the cache stays as it was.

        Their last tokens only, where they are more than one forward takes. Only for a cache with an index.
        """
        memory = self.blocks
        assert memory is not None
        if memory.wants_surprisals:
            memory.tell_lost(self.seen_tokens)
        assert memory.rows[0].recall is not None
        scout = memory.scout = Scout(memory.rows[0].recall.layers)
        most = min(LONGEST, self.chunk_limit)
        try:
            self.forward(ids[None, -most:], 1, past_key_values=self._cache, use_cache=True)
        except ScoutDone:
            pass
        finally:
            memory.scout = None
        return scout.found

    @torch.inference_mode()
    def raw_keys(self, layer: int, first: int, end: int) -> Float[Tensor, "G n D"]:
        """Keys that are in no block yet, before their rotation."""
        return raw_keys(self._cache.stream, layer, first, end)

    def predict(self) -> None:
        """None: the last token would have to be read again."""

    @torch.inference_mode()
    def fork(self) -> CacheRunner:
        """A reader over a copy of the cache: as many bytes as the cache holds."""
        recall = index_maker(self.model, self._method, None)
        return CacheRunner(self.forward, self._method, self._cache.fork(), make_recall=recall)

    def fresh(self) -> CacheRunner:
        """A reader over a new cache."""
        chunk = self._cache.stream.chunk
        return CacheRunner.attached(self.forward, self._method, chunk, self._make_store, self._make_recall)

    def report(self) -> MemoryReport:
        """The cache's own report."""
        return self._cache.report()

    @torch.inference_mode()
    def state(self, sealed: bool = True) -> State:
        """The cache's own state."""
        return stream_state(self._cache.stream, sealed)

    @torch.inference_mode()
    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Put a state into the cache."""
        load_stream(self._cache.stream, tensors, meta, self.forward.device)

    def offload(self, load: Callable[[], State] | None = None) -> None:
        """Frees the cache; the model stays attached. Nothing happens to one that is empty, or away."""
        stream = self._cache.stream
        if self.away is None and stream.seen_tokens:
            # From here on the state counts: what an interrupt leaves to be freed is freed when it comes back.
            self.away = OffloadedCache.of(stream, load)
            stream.reset()

    def reload(self) -> None:
        """Brings an offloaded cache back."""
        if self.away is not None:
            self.away.restore(self._cache.stream, self.forward.device)
            self.away = None

    @property
    def blocks(self) -> BlockMemory | None:
        """The block memory of the cache, if the method has one."""
        memory = self._cache.stream.memory
        return cast("BlockMemory", memory) if memory is not None and memory.retrieves else None

    @property
    def planned_bytes(self) -> int:
        """What the cache takes on the device, and a prediction."""
        head = self.forward.model.get_input_embeddings().weight
        return (self._cache.stream.planned_bytes() or 0) + len(head) * head.element_size()

    def close(self) -> None:
        """Close the cache; the last one that is closed, or collected, restores the model."""
        self.away = None
        self._cache.close()
