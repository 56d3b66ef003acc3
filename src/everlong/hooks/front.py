"""What stands in for the forward of the module around a decoder (of models that also see or hear).

Such a module may build masks over all that was seen and hand them to its decoder. A stream needs none: they are left
unmade, and the decoder is told which mask the caller gave. Masks that would mean something (an image's tokens see
each other) are refused, by the names of the arguments that ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everlong.cache.stream_cache import StreamCache
from everlong.errors import CapabilityError
from everlong.hooks.arguments import new_tokens
from everlong.hooks.replacement import Replacement
from everlong.hooks.routes import AttentionHook
from everlong.hooks.turns import turn

TEXT = {"input_ids", "inputs_embeds", "per_layer_inputs", "attention_mask", "position_ids", "labels", "logits_to_keep"}


@dataclass(frozen=True)
class Caller:
    """What the forward around the decoder was given: mask, positions, and the names of what is not text.

    `shown` is the mask that the module around the decoder was given in the place of the caller's.
    """

    mask: Any
    positions: Any
    others: list[str]
    shown: Any = None


class Front:
    """The replacement around a decoder; `caller` is set while its forward runs."""

    def __init__(self, module: nn.Module, route: AttentionHook) -> None:
        self.route = route
        self.caller: Caller | None = None
        self.replacement = Replacement(module, self._forward)

    def _forward(self, given: dict[str, Any]) -> Any:
        cache = given.get("past_key_values")
        if not isinstance(cache, StreamCache):
            return self.replacement.stock(**given)
        with turn(self.route.decoder):
            return self._run(given, cache)

    def _run(self, given: dict[str, Any], cache: StreamCache) -> Any:
        """The forward around the decoder; what is not text is read as the beginning of a prompt would be.

        Such a module notes on itself how far an image has moved positions, for one stream alone: that is taken back.
        """
        others = [name for name, x in given.items() if name not in TEXT and isinstance(x, Tensor) and bool(x.any())]
        mask = given.get("attention_mask")
        shown = None
        if others:
            rows, tokens = new_tokens(given).shape[:2]
            shown = torch.ones(1, 1, dtype=torch.long).expand(rows, tokens)
            if isinstance(mask, Tensor) and mask.ndim == 2:
                shown = mask[:, -tokens:]
            given["attention_mask"] = shown
        self.caller = Caller(mask, given.get("position_ids"), others, shown)
        module = self.replacement.module
        noted = dict(vars(module))
        cache.seems_empty = bool(others)
        try:
            with self.route.unmasked():
                return self.replacement.stock(**given)
        finally:
            self.caller = None
            cache.seems_empty = False
            _restore(module, noted)

    @property
    def anew(self) -> bool:
        """Whether the module around the decoder has counted positions from the first new token on."""
        return self.caller is not None and bool(self.caller.others) and self.caller.positions is None

    def positions(self, made: Any) -> Any:
        """The caller's positions; those that the module around the decoder `made` of text alone are what we count."""
        return made if self.caller is None or self.caller.others else self.caller.positions

    def mask(self, made: Any) -> Any:
        """The caller's mask, where the module around the decoder made `made` of it; CapabilityError for images."""
        if self.caller is not None and made is self.caller.shown:
            return self.caller.mask
        if self.caller is None or isinstance(made, Tensor):
            return made
        if isinstance(made, Mapping) and any(mask is not None for mask in made.values()):
            return made
        if self.caller.others:
            raise CapabilityError(
                f"{', '.join(self.caller.others)}: this model lets the tokens of an image see each other, which a "
                "StreamCache does not handle; give text alone, or run the model without the cache"
            )
        return self.caller.mask


def _restore(module: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Give a module the attributes back that it had."""
    own = vars(module)
    for name in [name for name in own if name not in attributes]:
        del own[name]
    own.update(attributes)
