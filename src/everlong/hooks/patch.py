"""What is changed in a model while anything is attached to it: the forward of its decoder, on the instance.

A forward that is given a StreamCache runs as a step: bounded positions, no mask, attention redirected by the model's
route, committed at its end and abandoned if it fails. Any other forward runs as if nothing were attached. Threads take
turns: one forward of a model ends before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from everlong.cache.packed import PackedCache
from everlong.cache.positions import ImagePlanes
from everlong.cache.step import ForwardPlan
from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.errors import AttachError, CapabilityError
from everlong.hooks.arguments import check_mode, check_outputs, checked_planes, left_padding, new_tokens
from everlong.hooks.current_step import RunningStep, activate, add_to_output, keep_input
from everlong.hooks.expansion import Expansions
from everlong.hooks.failures import model_failures_told
from everlong.hooks.front import Front
from everlong.hooks.kept import KeptFindings
from everlong.hooks.probe import probe
from everlong.hooks.program.make import Recording
from everlong.hooks.program.run import token_inputs
from everlong.hooks.program.switch import TokenProgram, runs_from_list, switch_of
from everlong.hooks.replacement import OutputHead, Replacement
from everlong.hooks.routes import choose_route
from everlong.hooks.self_check import check_equal_to_stock
from everlong.hooks.state_check import asks_for_states, one_by_one, stateful_modules
from everlong.hooks.turns import turn
from everlong.methods.base import Method
from everlong.methods.recurrent.parameters import NAME, MemoryParameters
from everlong.models.internals import (
    accepts,
    around_decoder,
    attention_modules,
    check_all_added,
    decoder_of,
    device_of,
    plain,
    text_config,
)
from everlong.ops.spans import Ints

_TEXT = {"input_ids", "past_key_values", "use_cache"}
"""What a forward is given that reads a text and asks for nothing else."""


class Trained(Protocol):
    """What answers forwards without a cache while a model is trained (training.py)."""

    def forward(self, given: dict[str, Any]) -> Any:
        """The decoder's forward."""
        ...


class ModelPatch:
    """Stands in for `decoder.forward` while it has holders."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.decoder = decoder_of(model)
        self._turn = turn(self.decoder)
        self.route = choose_route(model)
        kept = KeptFindings.of(model, self.route)
        found = None if kept is None else kept.read()
        with plain(model), model_failures_told(model):
            self.plan = found or probe(model, self.route)
        self.width: int = text_config(model).hidden_size
        self.takes_positions = accepts(self.decoder, "position_ids")
        self._singly = stateful_modules(self.decoder) if self.plan.steps_singly else []
        self.holders = 0
        self.being_checked = found is None
        """Whether the modules are compared with others: then they alone read more than a token."""
        self.training: Trained | None = None
        self._hooks: list[Any] = []
        self.replacement = Replacement(self.decoder, self._forward)
        self.plan = replace(self.plan, expansions=Expansions(self.decoder, self.stock, self.route))
        around = around_decoder(model)
        self._front = None if around is None else Front(around, self.route)
        self._head = OutputHead.of(model)
        if found is not None:
            return
        try:
            with plain(model), model_failures_told(model):
                check_equal_to_stock(model, StreamCache(CachedStream(self.plan, "self-check", 0, None)))
        except BaseException:
            self._remove()
            raise
        self.being_checked = False
        if kept is not None:
            kept.write(self.plan)

    @classmethod
    def held(cls, model: PreTrainedModel) -> ModelPatch:
        """The model's plug, held by one more; a new one is probed and checked."""
        decoder = decoder_of(model)
        with turn(decoder):
            found = Replacement.of(decoder)
            plug = cls(model) if found is None else found.owner
            plug.holders += 1
            # Its last holder may have been collected meanwhile, in this very thread.
            if Replacement.of(decoder) is plug.replacement:
                return plug
        return cls.held(model)

    @property
    def stock(self) -> Callable[..., Any]:
        """The decoder's forward as it was."""
        return self.replacement.stock

    def hold(self) -> None:
        """One more handle or cache needs the plug."""
        with self._turn:
            self.holders += 1

    def release(self) -> None:
        """One fewer; the last restores the model."""
        with self._turn:
            self.holders -= 1
            if self.holders == 0:
                self._remove()

    def keep_inputs(self) -> None:
        """Let each step know what enters the attention of its layers, and add to what leaves it.

        Until the last holder leaves.
        """
        if not self._hooks:
            modules = [m for _, m in attention_modules(self.decoder) if not asks_for_states(m)]
            self._hooks = [m.register_forward_pre_hook(keep_input, with_kwargs=True) for m in modules]
            self._hooks += [m.register_forward_hook(add_to_output) for m in modules]

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
        if (wanted := self._shapes(method)) != kept.shapes():
            raise CapabilityError(
                f"{method.name}: the memory of this model holds {kept.shapes() or 'no parameters'}, and these options "
                f"need {wanted or 'none'}; give those that it was trained with"
            )
        return kept

    def _shapes(self, method: Method) -> dict[str, tuple[int, ...]]:
        """The shapes of the method's parameters for this model; empty without any."""
        with torch.device("meta"):
            wanted = method.parameters(self.plan, self.width)
        return {} if wanted is None else wanted.shapes()

    def check_ranks(self, method: Method) -> None:
        """AttachError for a method whose parameters are by head, on a model whose heads are shared out to ranks."""
        ranks = self.plan.ranks
        if ranks is not None and self._shapes(method):
            raise AttachError(
                f"{method.name}: its parameters belong to all heads of the model, which are shared out to {ranks.size} "
                "ranks; load the model whole, or use blocks, sinks, window, transformer_xl or dense"
            )

    def parameters(self, method: Method) -> MemoryParameters | None:
        """What was trained for `method`, or else untrained parameters on the model's device; None if it has none."""
        found = self.trained(method)
        if found is None and (found := method.parameters(self.plan, self.width)) is not None:
            found = found.to(device_of(self.decoder))
        return found

    def _remove(self) -> None:
        self.replacement.remove()
        if self._front is not None:
            self._front.replacement.remove()
        if self._head is not None:
            self._head.replacement.remove()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.route.restore()

    def _forward(self, given: dict[str, Any]) -> Any:
        """The decoder's forward."""
        cache = given.get("past_key_values")
        with self._turn:
            if isinstance(cache, StreamCache):
                return self._step(cache.stream, given)
            if isinstance(cache, PackedCache):
                return self._packed(cache, given)
            self.route.restore()
            return self.stock(**given) if self.training is None else self.training.forward(given)

    def _step(self, stream: CachedStream, given: dict[str, Any]) -> Any:
        """A forward over new tokens of one stream."""
        if stream.plan is not self.plan:
            raise CapabilityError("StreamCache: belongs to another model; make one with attach(model, ...).new_cache()")
        if self._reads_text(given):
            new = given["input_ids"]
            pads = planes = None
        else:
            new = new_tokens(given)
            pads, planes = self._checked(stream, given, *new.shape[:2])
        try:
            step = stream.begin(new.shape[1], new.shape[0], pads, planes)
            out = self._forward_of(step, [step], given, new)
            stream.commit()
            return out
        finally:
            stream.abandon()

    def _reads_text(self, given: dict[str, Any]) -> bool:
        """Whether a forward has nothing to be checked: ids without a mask or positions, for a model in inference."""
        asked = {name for name, value in given.items() if value is not None}
        ids = given.get("input_ids")
        checked = self._front is not None or getattr(self.decoder.config, "output_attentions", False)
        return not checked and not self.decoder.training and asked <= _TEXT and ids is not None and ids.shape[1] > 0

    def _checked(
        self, stream: CachedStream, given: dict[str, Any], rows: int, tokens: int
    ) -> tuple[Ints | None, ImagePlanes | None]:
        """Padding and positions that a forward asks for; CapabilityError for what is not honoured."""
        check_outputs(given, self.decoder.config)
        check_mode(self.decoder)
        mask = given.get("attention_mask")
        positions = given.get("position_ids")
        if self._front is not None:
            mask = self._front.mask(mask)
            positions = self._front.positions(positions)
        pads = left_padding(stream, mask, rows, tokens, self.route.per_row_padding and not self.plan.states)
        anew = self._front is not None and self._front.anew
        return pads, checked_planes(stream, positions, tokens, stream.pads if pads is None else pads, anew)

    def _forward_of(self, step: RunningStep, steps: list[ForwardPlan], given: dict[str, Any], new: Tensor) -> Any:
        """What the decoder gives in a step of these streams: from its program, or by its modules."""
        program = self._program(steps, given)
        if program is not None and (hidden := program.run(steps, token_inputs(steps, new))) is not None:
            return program.answer(last_hidden_state=hidden, past_key_values=given["past_key_values"])
        given["attention_mask"] = self.route.attention_mask(step) if isinstance(step, ForwardPlan) else None
        if self.takes_positions:
            given["position_ids"] = step.positions(new.device)
        activate(step)
        try:
            with self.route.entered(step):
                if isinstance(step, ForwardPlan) and step.seen and step.tokens > 1:
                    for module in self._singly:
                        self.route.replace(module, "forward", one_by_one(module.forward))
                out = self.stock(**given)
            self.route.check(step)
        finally:
            activate(None)
        for own in steps:
            check_all_added(own.added)
        return out

    def _program(self, steps: list[ForwardPlan], given: dict[str, Any]) -> TokenProgram | None:
        """The decoder's program, where it answers such a forward."""
        if self.unpackable is not None or self._hooks or self.replacement.wraps or not runs_from_list(steps, given):
            return None
        if self.being_checked and any(step.tokens > 1 for step in steps):
            return None
        return switch_of(self.decoder).program(Recording(self.decoder, self.plan, self.route, self.stock))

    @cached_property
    def unpackable(self) -> str | None:
        """Why streams of this model cannot be packed into one row; None where they can."""
        if not self.route.packs or self._front is not None or not self.takes_positions:
            return "its attention is not asked through transformers' attention function alone"
        if self.plan.alibi or self.plan.hard_length is not None:
            return "its attention depends on how long a row is"
        if any(p.latent or p.repeated for p in self.plan.layers):
            return "its attention is given other keys than those that it caches"
        if self.plan.states:
            return f"layer {self.plan.states[0].index} keeps a state of all that it read, of one stream at a time"
        return None

    def _packed(self, cache: PackedCache, given: dict[str, Any]) -> Any:
        """A forward over new tokens of several streams in one row."""
        if self.unpackable is not None:
            raise CapabilityError(f"PackedCache: {self.unpackable}; read the streams one by one")
        if any(stream.plan is not self.plan for stream in cache.streams):
            raise CapabilityError("PackedCache: a stream belongs to another model; pack those of one model")
        check_mode(self.decoder)
        try:
            step = cache.begin()
            out = self._forward_of(step, step.steps, given, new_tokens(given))
            cache.commit()
            return out
        finally:
            cache.abandon()
