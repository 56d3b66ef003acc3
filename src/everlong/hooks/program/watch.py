"""Whether a module is still the one that was recorded: its parts, weights, hooks and own forwards."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn

from everlong.models.packed_linear import SAMPLE, PackedLinear
from everlong.ops.native import extension

_KNOWN = {"torch", "transformers", "everlong"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Watch:
    """Takes down what `decoder` consists of; `same` is asked before each token, so it only compares."""

    def __init__(self, decoder: nn.Module) -> None:
        modules = list(decoder.modules())
        kinds = (type(x) for x in (*modules, *decoder.parameters(), *decoder.buffers()))
        others = (kind for kind in kinds if kind.__module__.split(".")[0] not in _KNOWN)
        self.other: str | None = next((f"{kind.__module__}.{kind.__qualname__}" for kind in others), None)
        """A class of another package, whose forward may depend on what is not watched: an adapter may be turned off.

        Or whose weights are more than one tensor.
        """
        self._hooks: list[dict[Any, Any]] = [getattr(m, name) for m in modules for name in _HOOKS]
        self._own = [vars(m) for m in modules if m is not decoder]
        parts = [(m._modules, name, part) for m in modules for name, part in m._modules.items()]
        stored = [
            (store, name, x) for m in modules for store in (m._parameters, m._buffers) for name, x in store.items()
        ]
        self._stores: list[dict[str, Any]] = [store for store, _, _ in (*parts, *stored)]
        self._names = [name for _, name, _ in (*parts, *stored)]
        self._found: list[Any] = [found for _, _, found in (*parts, *stored)]
        # Samples of packed weights are what a model is known by: no forward reads them.
        samples = {id(m._buffers.get(SAMPLE)) for m in modules if isinstance(m, PackedLinear)}
        self._tensors = [x for _, _, x in stored if x is not None and id(x) not in samples]
        self._counted = [x for x in self._tensors if not x.is_inference()]
        self._addresses = [x.data_ptr() for x in self._tensors]
        self._versions = [x._version for x in self._counted]

    def plain(self) -> bool:
        """Whether no module has hooks or a forward of its own."""
        return not any(self._hooks) and not any("forward" in own for own in self._own)

    def same(self) -> bool:
        """Whether nothing has changed since, and the modules are plain."""
        # Lists that are made and compared as wholes, or by the extension: it is asked for each token.
        if not self._unchanged():
            return False
        if [x.data_ptr() for x in self._tensors] != self._addresses:
            return False
        return [x._version for x in self._counted] == self._versions

    def _unchanged(self) -> bool:
        """Whether modules have the parts that they had, and are plain."""
        native = extension()
        if native is not None:
            return native.unchanged(self._stores, self._names, self._found, self._hooks, self._own, "forward")
        found = [store.get(name) for store, name in zip(self._stores, self._names, strict=True)]
        return all(map(is_, found, self._found)) and self.plain()
