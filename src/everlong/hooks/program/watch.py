"""Whether a module is still the one that was recorded: its parts, weights, hooks and own forwards."""

from __future__ import annotations

from typing import Any

from torch import nn

_KNOWN = {"torch", "transformers", "everlong"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Watch:
    """Takes down what `decoder` consists of; `same` is asked before each token, so it only compares."""

    def __init__(self, decoder: nn.Module) -> None:
        modules = list(decoder.modules())
        others = (type(m) for m in modules if type(m).__module__.split(".")[0] not in _KNOWN)
        self.other: str | None = next((f"{cls.__module__}.{cls.__qualname__}" for cls in others), None)
        """A class of another package, whose forward may depend on what is not watched: an adapter may be turned off."""
        self._hooks: list[dict[Any, Any]] = [getattr(m, name) for m in modules for name in _HOOKS]
        self._own = [vars(m) for m in modules if m is not decoder]
        self._parts = [(m._modules, name, part) for m in modules for name, part in m._modules.items()]
        stored = [(store, name) for m in modules for store in (m._parameters, m._buffers) for name in store]
        self._weights = [(store, name, _state(store[name])) for store, name in stored]

    def plain(self) -> bool:
        """Whether no module has hooks or a forward of its own."""
        return not any(self._hooks) and not any("forward" in own for own in self._own)

    def same(self) -> bool:
        """Whether nothing has changed since, and the modules are plain."""
        parts = all(store.get(name) is part for store, name, part in self._parts)
        return parts and self.plain() and all(_state(store.get(name)) == state for store, name, state in self._weights)


def _state(x: Any) -> Any:
    """Which numbers a parameter or buffer has: where they lie, and how often they were written to."""
    if x is None:
        return None
    return x.data_ptr(), None if x.is_inference() else x._version
