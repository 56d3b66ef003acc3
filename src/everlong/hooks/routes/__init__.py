"""The ways by which a stock model's attention reaches ours: one file each, chosen by what the modules offer."""

from __future__ import annotations

from transformers import PreTrainedModel

from everlong.errors import UnsupportedLayerError
from everlong.hooks.routes.alibi import AlibiMask
from everlong.hooks.routes.base import AttentionHook
from everlong.hooks.routes.interface import Interface
from everlong.hooks.routes.method import MethodOverride
from everlong.hooks.routes.sdpa import SdpaCall
from everlong.models.internals import attention_modules, decoder_of

ROUTES: tuple[type[AttentionHook], ...] = (Interface, MethodOverride, AlibiMask, SdpaCall)


def choose_route(model: PreTrainedModel) -> AttentionHook:
    """The first route that fits the model; UnsupportedLayerError if none does."""
    decoder = decoder_of(model)
    modules = [m for _, m in attention_modules(decoder)]
    for route in ROUTES:
        if route.fits(decoder, modules):
            return route(decoder)
    if not modules:
        raise UnsupportedLayerError(
            f"{type(model).__name__}: no layers of attention were found in it (modules that know their layer_idx); use "
            "a model whose layers attend to cached keys (a recurrent one keeps constant memory without everlong)"
        )
    raise UnsupportedLayerError(
        f"{type(model).__name__}: computes attention by itself, in a way that cannot be redirected; expected the "
        "transformers attention interface, scaled_dot_product_attention, an _attn method or ALiBi masks"
    )


__all__ = ["ROUTES", "AttentionHook", "choose_route"]
