"""Training a memory: the stock model's forward over whole rows, all segments of a layer at once.

A forward without a cache is cut into segments (ops/segments.py), and each layer's attention is answered by the
method's own, which gradients pass. Nothing of the model's code is changed; what the attention needs to know travels
with the forward as one keyword argument, so that it is there again when gradient checkpointing runs a layer twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_outputs import ModelOutput

from everlong.errors import AttachError, CapabilityError, SelfCheckError
from everlong.hooks.arguments import check_outputs
from everlong.hooks.patch import ModelPatch
from everlong.hooks.routes.interface import Interface, no_mask
from everlong.hooks.self_check import CUTS, TOLERANCE
from everlong.methods.base import Method
from everlong.methods.recurrent.parameters import NAME
from everlong.methods.recurrent.training import TrainableCore, TrainStep, check_trainable
from everlong.models.internals import attention_input, attention_modules, check_all_added, configs_of, with_added
from everlong.models.sharding import check_complete, check_not_wrapped_inside
from everlong.ops.segments import NONE, aligned

IMPLEMENTATION = "everlong_training"
ARGUMENT = "everlong_step"


class Training(AbstractContextManager["Training"]):
    """A model whose forward trains `method`: use with `with`, or call `detach`.

    The model's forward then takes, beside its own arguments, `documents` [B, T] (the number of the document of each
    token, -1 for padding; from `attention_mask` or one document per row if left out), `write_weight` [B, T] (what each
    token adds to the memory is multiplied by it) and `carried` (a `Carried` that holds the memory between
    forwards over consecutive pieces of whole segments; it is changed). Logits are of the tokens given, in their order.
    """

    def __init__(self, plug: ModelPatch, method: Method, core: TrainableCore) -> None:
        self.plug = plug
        self.method = method
        self.core = core
        decoder = plug.decoder
        self.latest: TrainStep | None = None
        self._configs = configs_of(decoder)
        self._stock = [c._attn_implementation for c in self._configs]
        self._hooks = [
            m.register_forward_pre_hook(_keep_hidden, with_kwargs=True) for _, m in attention_modules(decoder)
        ]
        self._hooks += [m.register_forward_hook(_add, with_kwargs=True) for _, m in attention_modules(decoder)]
        for config in self._configs:
            config._attn_implementation = IMPLEMENTATION
        plug.training = self
        plug.hold()

    @property
    def parameters(self) -> Any:
        """What is trained beside the model: `MemoryParameters`, or what wraps them now (PEFT, FSDP)."""
        return getattr(self.plug.decoder, NAME)

    def use(self, method: Method) -> None:
        """Train the same parameters with other fields of the method from the next forward on."""
        if method != self.method:
            core = method.trainable(self.plug.plan)
            if core is None or method.name != self.method.name or self._shapes(method) != self._shapes(self.method):
                raise CapabilityError(f"training: {method} cannot go on with what {self.method} trains")
            self.method = method
            self.core = core

    def _shapes(self, method: Method) -> dict[str, tuple[int, ...]]:
        fresh = method.parameters(self.plug.plan, self.plug.width)
        return {} if fresh is None else fresh.shapes()

    def norms(self) -> list[float]:
        """The size of each layer's memory behind the last forward (Frobenius norm, mean over rows)."""
        step = self.latest
        return [] if step is None else [step.states[layer].norm() for layer in sorted(step.states)]

    def extra_loss(self) -> Tensor | None:
        """What the last forward adds to the loss (a regulariser of the method), if anything."""
        step = self.latest
        return None if step is None or not step.extra else torch.stack(list(step.extra.values())).sum()

    def detach(self) -> None:
        """Give the model its own forward back; the trained parameters stay with it."""
        if self.plug.training is not self:
            return
        self.plug.training = None
        for hook in self._hooks:
            hook.remove()
        for config, name in zip(self._configs, self._stock, strict=True):
            config._attn_implementation = name
        self.plug.release()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.detach()

    def forward(self, given: dict[str, Any]) -> Any:
        """The decoder's forward over aligned segments; its hidden states at the places of the tokens given."""
        name = "input_ids" if given.get("input_ids") is not None else "inputs_embeds"
        new: Tensor = given[name]
        if given.get("past_key_values") is not None:
            raise CapabilityError("training: takes whole rows without a cache; detach it to read with a cache")
        carried = given.pop("carried", None)
        weight = given.pop("write_weight", None)
        document = _documents(given.pop("documents", None), given.get("attention_mask"), new)
        text = aligned(document, self.core.segment)
        before = {}
        seen = 0
        if carried is not None:
            carried.check(text)
            before = carried.states
            seen = carried.seen_tokens
        write = None if weight is None else text.align(weight.to(new.device))
        step = TrainStep(self.core, self.parameters, self.plug.plan, text, write, before, text.position + seen)
        check_outputs(given, self.plug.decoder.config)
        _check_positions(given.get("position_ids"), text.back(step.positions), document)
        given[name] = text.align(new)
        given |= {"attention_mask": None, "position_ids": step.positions, "use_cache": False, ARGUMENT: step}
        given.pop("cache_position", None)
        self.latest = step
        out = self.plug.stock(**given)
        check_all_added(step.added)
        if carried is not None:
            carried.take(step, new.shape[1])
        return _in_order(out, text)


def attach_training(model: nn.Module, method: Method) -> Training:
    """`model` with its forward training `method`; parameters that it lacks are made, untrained, on its decoder.

    An AttachError or CapabilityError where the model can not be handled; it is then as it was.
    """
    check_complete(model, "attach_training")
    plain = _plain(model)
    if not isinstance(plain, PreTrainedModel):
        raise AttachError(
            f"attach_training: got {type(model).__name__}, expected a transformers model; pass load(...).model"
        )
    check_not_wrapped_inside(plain, "attach_training")
    plug = ModelPatch.held(plain)
    try:
        if plug.plan.ranks is not None:
            raise AttachError(
                f"attach_training: the heads of this model are shared out to {plug.plan.ranks.size} ranks, and what is "
                "trained belongs to all of them; load it whole and share the training out (`everlong train` with FSDP)"
            )
        return _attached(plug, model, method)
    finally:
        plug.release()


def _attached(plug: ModelPatch, model: nn.Module, method: Method) -> Training:
    if not isinstance(plug.route, Interface):
        raise CapabilityError(f"{type(model).__name__}: does not call the attention interface, so it cannot be trained")
    core = method.trainable(plug.plan)
    if core is None:
        raise CapabilityError(
            f"{method.name}: has nothing to train; use delta, infini, transformer_xl or infinity_former"
        )
    check_trainable(plug.plan, core)
    if plug.training is not None:
        raise CapabilityError("training: this model is being trained already; detach that first")
    ids, expected = _stock_hidden(plug.decoder, core.segment)
    AttentionInterface.register(IMPLEMENTATION, attention)
    AttentionMaskInterface.register(IMPLEMENTATION, no_mask)
    if lacks := plug.trained(method) is None:
        plug.decoder.add_module(NAME, plug.parameters(method))
    training = Training(plug, method, core)
    try:
        _check(plug, ids, expected if core.first_segment_is_stock else None)
    except BaseException:
        training.detach()
        if lacks:
            delattr(plug.decoder, NAME)
        raise
    return training


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    everlong_step: TrainStep | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer under training: query [B, H, N * L, D] -> [B, N * L, H, E]."""
    if everlong_step is None:
        raise CapabilityError("training: this model does not hand its forward's arguments to its attention")
    if dropout or softcap is not None or s_aux is not None:
        raise CapabilityError("training: attention with dropout, soft caps or sink logits is not handled; set them off")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return everlong_step.attend(module, query, key, value, scale).transpose(1, 2), None


def _keep_hidden(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """What enters a layer's attention is what some memories are made of."""
    step = kwargs.get(ARGUMENT)
    if step is not None and step.core.wants_hidden:
        step.hidden[module.layer_idx] = attention_input(args, kwargs)


def _add(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    """What leaves a layer's attention, with what a memory adds to it."""
    step = kwargs.get(ARGUMENT)
    added = None if step is None else step.added.pop(module.layer_idx, None)
    return output if added is None else with_added(output, added)


def _documents(given: Tensor | None, mask: Tensor | None, new: Tensor) -> Tensor:
    if given is not None:
        return given.to(new.device)
    if mask is None:
        return torch.zeros(new.shape[:2], dtype=torch.long, device=new.device)
    if mask.ndim != 2:
        raise CapabilityError("training: takes 2-D attention masks [rows, tokens] or none")
    return torch.where(mask.to(new.device, torch.bool), 0, NONE)


def _check_positions(given: Tensor | None, own: Tensor, document: Tensor) -> None:
    """CapabilityError unless the caller's positions [B, T], if any, are those within each document."""
    if given is None:
        return
    fits = given.shape[-1] == own.shape[1]
    if not fits or bool(((given.to(own.device) != own) & (document != NONE)).any()):
        raise CapabilityError(
            "position_ids: training counts the tokens of each document itself; leave position_ids out, and give "
            "documents [rows, tokens] where several share a row"
        )


def _in_order(out: Any, text: Any) -> Any:
    if text.source is None:
        return out
    if isinstance(out, ModelOutput):
        out["last_hidden_state"] = text.back(out["last_hidden_state"])
        return out
    return (text.back(out[0]), *out[1:])


def _plain(model: Any) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _stock_hidden(decoder: Any, segment: int) -> tuple[Tensor, Tensor]:
    """Some ids within one segment, and the stock model's hidden states of them."""
    embedding = decoder.get_input_embeddings()
    tokens = min(CUTS[-1], segment)
    ids = torch.randint(len(embedding.weight), (1, tokens), generator=torch.Generator().manual_seed(0))
    return ids, _hidden(decoder, ids.to(embedding.weight.device), use_cache=False)


def _hidden(decoder: nn.Module, ids: Tensor, **more: Any) -> Tensor:
    """The hidden states, without dropout and gradients."""
    mode = decoder.training
    decoder.eval()
    try:
        with torch.no_grad():
            return decoder(input_ids=ids, **more)[0].float()
    finally:
        decoder.train(mode)


def _check(plug: ModelPatch, ids: Tensor, expected: Tensor | None) -> None:
    """SelfCheckError unless a text within the first segment can be read, and gives what is `expected`, if anything."""
    got = _hidden(plug.decoder, ids.to(next(plug.decoder.parameters()).device))
    error = 0.0 if expected is None else float((got - expected).norm() / expected.norm())
    if not error <= TOLERANCE[plug.plan.dtype]:
        raise SelfCheckError(
            f"{type(plug.decoder).__name__}: under training, its first segment differs by {error:.2g} from the stock "
            "model's; the model cannot be trained"
        )
