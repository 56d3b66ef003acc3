"""What is changed in a model while anything is attached to it: the forward of its decoder, on the instance.

A forward that is given a StreamCache runs as a step: bounded positions, no mask, attention redirected by the model's
route, committed at its end and abandoned if it fails. Any other forward runs as if nothing were attached. Threads take
turns: one forward of a model ends before the next begins.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from everlong.attach.active import activate, running_step
from everlong.attach.check import check_equal_to_stock
from everlong.attach.probe import probe
from everlong.attach.routes import choose_route
from everlong.attach.stock import accepts, attention_input, attention_modules, decoder_of, text_config
from everlong.attach.turns import turn
from everlong.errors import CapabilityError
from everlong.memory.cache import StreamCache
from everlong.memory.recurrent.parameters import NAME, MemoryParameters
from everlong.memory.step import Step
from everlong.methods.base import Method
from everlong.ops.spans import Ints


class Trained(Protocol):
    """What answers forwards without a cache while a model is trained (training.py)."""

    def forward(self, given: dict[str, Any]) -> Any:
        """The decoder's forward."""
        ...


class Plug:
    """Stands in for `decoder.forward` while it has holders."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.decoder = decoder_of(model)
        self.plan = probe(model)
        self.width: int = text_config(model).hidden_size
        self.route = choose_route(model)
        self.stock = self.decoder.forward
        self.__signature__ = inspect.signature(self.stock)
        self.takes_positions = accepts(self.stock, "position_ids")
        self.holders = 0
        self.training: Trained | None = None
        self._hooks: list[Any] = []
        self.decoder.forward = self
        try:
            check_equal_to_stock(model, StreamCache(self.plan, "self-check", 0, None))
        except BaseException:
            self._remove()
            raise

    @classmethod
    def of(cls, model: PreTrainedModel) -> Plug:
        """The model's plug; a new one is probed and checked. For who has the model's turn."""
        found = decoder_of(model).__dict__.get("forward")
        return found if isinstance(found, Plug) else cls(model)

    def hold(self) -> None:
        """One more handle or cache needs the plug."""
        with turn(self.decoder):
            self.holders += 1

    def release(self) -> None:
        """One fewer; the last restores the model."""
        with turn(self.decoder):
            self.holders -= 1
            if self.holders == 0:
                self._remove()

    def keep_inputs(self) -> None:
        """Let each step know what enters the attention of its layers, until the last holder leaves."""
        if not self._hooks:
            modules = [m for _, m in attention_modules(self.decoder)]
            self._hooks = [m.register_forward_pre_hook(_keep_input, with_kwargs=True) for m in modules]

    def trained(self, method: Method) -> MemoryParameters | None:
        """What was trained for `method` and is kept with the model; CapabilityError if it is for another."""
        kept: Any = getattr(self.decoder, NAME, None)
        if not method.trained or kept is None:
            return None
        if kept.method != method.name:
            raise CapabilityError(
                f"{method.name}: the memory of this model was trained for {kept.method}; use that method, or load the "
                "model without its memory"
            )
        with torch.device("meta"):
            wanted = method.parameters(self.plan, self.width)
        if wanted is not None and wanted.shapes() != kept.shapes():
            raise CapabilityError(
                f"{method.name}: the memory of this model holds {kept.shapes() or 'no parameters'}, and these options "
                f"need {wanted.shapes() or 'none'}; give those that it was trained with"
            )
        return kept

    def parameters(self, method: Method) -> MemoryParameters | None:
        """What was trained for `method`, or else untrained parameters on the model's device; None if it has none."""
        found = self.trained(method)
        if found is None and (found := method.parameters(self.plan, self.width)) is not None:
            found = found.to(next(self.decoder.parameters()).device)
        return found

    def _remove(self) -> None:
        if self.decoder.__dict__.get("forward") is self:
            del self.decoder.forward
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.route.restore()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder's forward."""
        with turn(self.decoder):
            return self._forward(*args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self.__signature__.bind_partial(*args, **kwargs).arguments
        cache = given.get("past_key_values")
        if isinstance(cache, StreamCache):
            return self._step(cache, given | given.pop("kwargs", {}))
        self.route.restore()
        if self.training is not None:
            return self.training.forward(given | given.pop("kwargs", {}))
        return self.stock(*args, **kwargs)

    def _step(self, cache: StreamCache, given: dict[str, Any]) -> Any:
        if cache.plan is not self.plan:
            raise CapabilityError("StreamCache: belongs to another model; make one with attach(model, ...).new_cache()")
        new: Any = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
        rows, tokens = new.shape[:2]
        pads = self._pads(cache, given.get("attention_mask"), rows, tokens)
        step = cache.begin(tokens, rows, pads)
        try:
            given["attention_mask"] = self.route.attention_mask(step)
            if self.takes_positions:
                given["position_ids"] = self._positions(step, new)
            activate(step)
            with self.route.entered(step):
                out = self.stock(**given)
            self.route.check(step)
            cache.commit()
            return out
        finally:
            activate(None)
            cache.abandon()

    @staticmethod
    def _positions(step: Step, like: Tensor) -> Tensor:
        start = step.seen - step.base
        return torch.arange(start, start + step.tokens, device=like.device).expand(step.rows, -1)

    def _pads(self, cache: StreamCache, mask: Any, rows: int, tokens: int) -> Ints | None:
        """Left padding of each row, read from the first forward's mask; padding elsewhere is refused."""
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise CapabilityError("StreamCache: takes 2-D attention masks [rows, tokens] or none")
        new = mask[:, -tokens:].to(torch.bool)
        if new.all():
            return None
        pads = (~new).sum(1)
        left = torch.arange(tokens, device=mask.device) >= pads[:, None]
        if cache.seen_tokens or not torch.equal(new, left) or not self.route.per_row_padding:
            raise CapabilityError(
                "StreamCache: only left padding, in the first forward, of models with rotary positions is handled; "
                "pad on the left (tokenizer.padding_side='left'), or run the rows one by one"
            )
        return pads.cpu().numpy().astype(np.int64)


def _keep_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What enters a layer's attention is what some memories are made of."""
    step = running_step()
    if step is not None:
        step.inputs[module.layer_idx] = attention_input(args, kwargs)
