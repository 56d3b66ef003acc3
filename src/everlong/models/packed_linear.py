"""Models whose linear layers hold weights of 4 or 8 bits, whatever their family."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from everlong.errors import ConfigError
from everlong.models.weights import FILE, FULL, check_weights
from everlong.ops import gguf_blocks, packed
from everlong.ops.native import extension
from everlong.ops.packed_blocks import Q4_KINDS, from_blocks
from everlong.ops.quantise import held_in_four_bits, quantise

logger = logging.getLogger(__name__)

SAMPLE = "sample"
"""The buffer of a layer that is not computed with."""
_SAMPLES = 256
_SMALL = 1 / 4
"""A layer with less than this share of the weights of the largest one is small."""


class PackedLinear(nn.Module):
    """What `nn.Linear` computes, from weights of 4 or 8 bits that are never there in full.

    Without the C extension, torch's own product for 4 bits is used in bfloat16; else the weights are unpacked once and
    kept. `sample` has 256 values of the original weights at equal strides, by which a model is known again in whichever
    form it was loaded.
    """

    packed: Tensor
    sample: Tensor

    def __init__(
        self, data: Tensor, form: packed.Format, shape: tuple[int, int], bias: Tensor | None, sample: Tensor
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.form = form
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_buffer("packed", data)
        self.register_buffer(SAMPLE, sample)
        self._ready: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, module: nn.Linear, weights: str, is_head: bool = False, is_small: bool = False) -> PackedLinear:
        """The linear layer `module` in the form that `weights` asks for.

        Weights that 4 bits hold as they are have 4. Of others a head and small layers have 8 all the same: they are few
        bytes, and rounding them costs much.
        """
        weight = module.weight.detach()
        shape = (module.out_features, module.in_features)
        fours = weights == FILE or (weights == "int4" and not is_head)
        held = held_in_four_bits(weight) if fours else None
        rounds = weights == "int4" and not is_head and not is_small
        form: packed.Format = "q4" if held is not None or rounds else "q8"
        return cls(quantise(weight, form) if held is None else held, form, shape, module.bias, sample_of(weight))

    @property
    def weight(self) -> Tensor:
        """The weights, unpacked anew; for code that does not call the layer."""
        return packed.unpack(self.packed, self.form, self.out_features, self.in_features, self.sample.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., inputs] times the weights, plus the bias."""
        if extension() is None and _may_keep_unpacked(x):
            return self._in_torch(x)
        return packed.linear(x, self.packed, self.form, self.out_features, self.bias)

    def _in_torch(self, x: Tensor) -> Tensor:
        if self.form == "q4" and x.dtype == torch.bfloat16:
            if len(self._ready) != 2:
                self._ready = packed.as_int4pack(self.packed, self.in_features)
            return packed.int4pack_linear(x, *self._ready, self.out_features, self.bias)
        if len(self._ready) != 1 or self._ready[0].dtype != x.dtype:
            self._ready = (packed.unpack(self.packed, self.form, self.out_features, self.in_features, x.dtype),)
        return F.linear(x, self._ready[0], self.bias)

    def extra_repr(self) -> str:
        """What the layer is, for printing."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"weights={self.form}"
        )


@dataclass(frozen=True)
class Packing:
    """What decides how a layer is packed: whether it is the model's head, and whether it is small."""

    is_head: bool
    is_small: bool


def pack_model(model: Any, weights: str) -> None:
    """Put packed layers in the place of a model's linear ones; all else stays as it is, which is said where it is much.

    ConfigError for a model without linear layers.
    """
    for name, packing in packings(model, weights).items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(name)
        layer = PackedLinear.of(module, weights, packing.is_head, packing.is_small)
        setattr(model.get_submodule(owner), own, layer)


def packings(model: Any, weights: str) -> dict[str, Packing]:
    """The layers of a model that `weights` asks to pack, by name.

    ConfigError for a model without linear layers.
    """
    if check_weights(weights) == FULL:
        return {}
    head = model.get_output_embeddings()
    found = [(name, m) for name, m in model.named_modules() if _is_linear(m) and _is_large(m) and not _of_adapter(name)]
    if not found:
        raise ConfigError(f"weights={weights}: {type(model).__name__} has no linear layers to pack; leave weights out")
    _tell_of_the_rest(model, sum(m.weight.numel() for _, m in found if m is not head), weights)
    largest = max((m.weight.numel() for _, m in found if m is not head), default=0)
    return {name: Packing(m is head, m.weight.numel() < largest * _SMALL) for name, m in found}


def _of_adapter(name: str) -> bool:
    """Whether a layer belongs to a LoRA adapter (PEFT), which stays as it is."""
    return any(part.startswith("lora_") for part in name.split("."))


def packed_of_rows(
    module: nn.Linear, rows: UInt8[Tensor, "O W"], kind: int, weights: str, packing: Packing
) -> PackedLinear | None:
    """A packed layer of the shape of `module`, made of rows of a GGUF file's blocks without unpacking them.

    None where packed weights do not hold what the blocks hold, and `PackedLinear.of` decides.
    """
    fours = weights == FILE or (weights == "int4" and not packing.is_head)
    rounds = weights == "int4" and not packing.is_head and not packing.is_small
    form: packed.Format | None = "q4" if fours and kind in Q4_KINDS else None if rounds else "q8"
    data = None if form is None else from_blocks(rows, kind, form)
    if form is None or data is None:
        return None
    shape = (module.out_features, module.in_features)
    return PackedLinear(data, form, shape, module.bias, _sample_of_rows(rows, kind, shape[1]))


def is_packed(model: nn.Module) -> bool:
    """Whether the model has packed layers."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def packed_layers(model: nn.Module) -> list[tuple[str, PackedLinear]]:
    """The packed layers by name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, PackedLinear)]


def parameters_of(model: Any) -> int:
    """How many numbers the model has; a weight is one, packed or not, and a head that shares the embedding's none."""
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    head = model.get_output_embeddings() if tied else None
    layers = [module for _, module in packed_layers(model) if module is not head]
    return sum(p.numel() for p in model.parameters()) + sum(m.in_features * m.out_features for m in layers)


def weight_bytes(model: nn.Module) -> int:
    """The bytes that the model's weights take, packed ones as they are."""
    return sum(p.nbytes for p in model.parameters()) + sum(m.packed.nbytes for _, m in packed_layers(model))


def sample_of(weight: Tensor) -> Tensor:
    """256 values at equal strides, or all where there are fewer."""
    flat = weight.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)].clone()


def _sample_of_rows(rows: UInt8[Tensor, "O W"], kind: int, inputs: int) -> Tensor:
    """What `sample_of` gives for the weights of these rows."""
    count = len(rows) * inputs
    at = torch.arange(0, count, max(1, count // _SAMPLES))
    picked, place = (at // inputs).unique(return_inverse=True)
    return gguf_blocks.weights(rows[picked], kind)[place, at % inputs]


def _may_keep_unpacked(x: Tensor) -> bool:
    """Whether the product is an ordinary one on the CPU: no gradient is asked for, and no graph is being made."""
    without_gradient = not (torch.is_grad_enabled() and x.requires_grad)
    return x.device.type == "cpu" and without_gradient and not torch.compiler.is_compiling()


def _tell_of_the_rest(model: nn.Module, packed_weights: int, weights: str) -> None:
    """A warning where most weights are in no linear layer: experts in one tensor, layers of a class of their own."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in tables)
    if packed_weights < matrices / 2:
        logger.warning(
            "weights=%s: %d %% of this model's weights are in plain linear layers and are packed; the rest (experts in "
            "one tensor, layers of the model's own) stays as dtype says",
            weights,
            round(100 * packed_weights / matrices),
        )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _is_large(module: nn.Linear) -> bool:
    """Whether a layer is worth packing: routers and gates of a few outputs are neither large nor forgiving."""
    return min(module.in_features, module.out_features) >= packed.GROUP
