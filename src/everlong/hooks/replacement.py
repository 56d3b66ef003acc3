"""A module's forward, replaced on the instance and put back exactly, whoever else wraps it before or meanwhile.

That of the decoder is replaced by its patch (patch.py), that of the output layer here: over few tokens the extension
takes half of torch's time for a large vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from everlong.models.internals import signature_of
from everlong.ops.packed import plain_linear

ATTRIBUTE = "everlong_forward"
"""Where a module keeps its replacement, however its forward is wrapped."""

MOST_TOKENS = {torch.float32: 16, torch.bfloat16: 8}
"""Above so many torch is as fast (benchmarks/linears.py)."""


class Replacement:
    """Calls `forward` with the arguments by name, until it is removed; then it is only a way to the stock forward."""

    def __init__(self, module: nn.Module, forward: Callable[[dict[str, Any]], Any]) -> None:
        self.module = module
        self._forward = forward
        self.__signature__ = signature_of(module)
        self._more = _keywords(self.__signature__)
        self._before = vars(module).get("forward")
        self._live = True
        self.stock = module.forward
        module.forward = self
        setattr(module, ATTRIBUTE, self)

    @staticmethod
    def of(module: nn.Module) -> Replacement | None:
        """The module's replacement, if it has one."""
        found = vars(module).get(ATTRIBUTE)
        return found if isinstance(found, Replacement) else None

    @property
    def wraps(self) -> bool:
        """Whether the stock forward is one that somebody put on the module before, not its own, as a copy has it."""
        return self._before is not None and self._before != MethodType(type(self.module).forward, self.module)

    @property
    def owner(self) -> Any:
        """The object whose method is called."""
        return getattr(self._forward, "__self__", None)

    def remove(self) -> None:
        """Put back what was there; who wrapped us meanwhile keeps us, and then finds the stock forward in us."""
        self._live = False
        put_back = {"forward": self._before, ATTRIBUTE: None}
        for name in [name for name, value in vars(self.module).items() if value is self]:
            if (value := put_back.get(name, self.stock)) is None:
                del vars(self.module)[name]
            else:
                vars(self.module)[name] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        if not self._live:
            return self.stock(*args, **kwargs)
        given = self.__signature__.bind_partial(*args, **kwargs).arguments
        return self._forward(given | given.pop(self._more, {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What a copy of the model is given in our place: its own stock forward."""
        return copy.deepcopy(self.stock, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        """What a pickle of the model holds in our place."""
        return copy.copy, (self.stock,)


class OutputHead:
    """Stands in for the forward of a plain linear output layer while anything is attached to its model."""

    def __init__(self, head: nn.Linear) -> None:
        self._head = head
        self.replacement = Replacement(head, self._forward)

    @classmethod
    def of(cls, model: PreTrainedModel) -> OutputHead | None:
        """That of `model`; None where its output layer is another kind of module, or has a forward of its own."""
        head = model.get_output_embeddings()
        return cls(head) if type(head) is nn.Linear and head.forward == MethodType(nn.Linear.forward, head) else None

    def _forward(self, given: dict[str, Any]) -> Any:
        x = given["input"]
        weight = self._head.weight
        if x.dtype != weight.dtype or x.numel() > MOST_TOKENS.get(x.dtype, 0) * weight.shape[1]:
            return self.replacement.stock(**given)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return self.replacement.stock(**given)
        return plain_linear(x, weight, self._head.bias)


def _keywords(signature: inspect.Signature) -> str:
    """The name under which further keyword arguments are bound ("" if there are none)."""
    return next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")
