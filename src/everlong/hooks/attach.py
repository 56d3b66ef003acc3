"""attach(model, method): run a stock transformers model over a stream without end."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from torch import nn
from transformers import PreTrainedModel

from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.errors import AttachError, CapabilityError
from everlong.hooks.patch import ModelPatch
from everlong.methods.base import Method
from everlong.methods.blocks.recall.index import MakeRecall, no_recall
from everlong.methods.recurrent.parameters import NAME
from everlong.models.internals import decoder_of, lacks_weights
from everlong.models.layout import ModelLayout
from everlong.models.sharding import check_complete, check_not_wrapped_inside
from everlong.storage.base import HostStore, Store


class Handle:
    """A model attached to a method: makes caches. Use with `with`, or call `detach`. `plug` is held for it."""

    def __init__(self, plug: ModelPatch, method: Method) -> None:
        self.method = method
        self._plug = plug
        self._attached = True

    @property
    def plan(self) -> ModelLayout:
        """What the probe found."""
        return self._plug.plan

    @property
    def route(self) -> str:
        """By which way the model's attention reaches ours."""
        return self._plug.route.title

    def new_cache(
        self,
        chunk: int = 512,
        make_store: Callable[[], Store] = HostStore,
        make_recall: MakeRecall = no_recall,
    ) -> StreamCache:
        """An empty cache, to be passed as past_key_values.

        `chunk` is how many tokens a forward usually brings: longer forwards work and need more memory for their
        duration. `make_store` makes the place for stored blocks, for each row, and `make_recall` the index that
        questions are compared with (method blocks). The cache keeps the model attached until it is closed or collected.
        """
        if not self._attached:
            raise CapabilityError("handle: is detached; call attach(model, method) again")
        if not self.method.streams:
            raise CapabilityError(f"{self.method.name}: keeps no cache, it can only score; use Session.score")
        sinks, window = self.method.layout()
        parameters = self._plug.parameters(self.method)
        memory = self.method.stream_memory(self.plan, parameters, make_store, make_recall)
        if memory is not None and memory.keeps_inputs:
            self._plug.keep_inputs()
        stream = CachedStream(self.plan, str(self.method), sinks, window, chunk, memory)
        return StreamCache(stream, self._plug)

    def detach(self) -> None:
        """Restore the model, unless other handles or caches still use it. May be called twice."""
        if self._attached:
            self._attached = False
            self._plug.release()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.detach()


def attach(model: nn.Module, method: Method) -> Handle:
    """A handle on `model` with `method`; the model is probed and checked the first time.

    Raises an AttachError (learned positions, frequencies in a half type, a rotation that cannot be proved, a layer
    that is not attention, a part of a model, or a failed self-check), and then leaves the model as it was; a
    CapabilityError for a method that needs a model which was trained with it. Threads may share a model: its forwards
    then take turns. A model sharded over ranks by heads is attached on every one of them, and read by all together.
    """
    check_complete(model, "attach")
    if type(model).__module__.partition(".")[0] == "peft":
        raise AttachError(
            f"attach: got {type(model).__name__}, which wraps a transformers model; pass model.get_base_model(), in "
            "which its adapters stay active"
        )
    if not isinstance(model, PreTrainedModel):
        raise AttachError(f"attach: got {type(model).__name__}, expected a transformers model; pass load(...).model")
    check_not_wrapped_inside(model, "attach")
    if lacks_weights(model):
        raise AttachError(f"{type(model).__name__}: its weights are on the meta device; load them before attaching")
    if getattr(decoder_of(model), NAME, None) is None:
        method.check_untrained()
    plug = ModelPatch.held(model)
    try:
        plug.check_ranks(method)
    except BaseException:
        plug.release()
        raise
    return Handle(plug, method)
