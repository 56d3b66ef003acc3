"""What a method is: a frozen dataclass whose fields are its arguments, YAML keys and `-o` options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from everlong.config import build
from everlong.errors import ConfigError, nearest

if TYPE_CHECKING:
    from everlong.memory.plan import RotaryPlan
    from everlong.memory.protocol import StreamMemory
    from everlong.memory.recurrent.parameters import MemoryParameters
    from everlong.memory.recurrent.training import TrainableCore

_REGISTRY: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Method:
    """Which tokens a token attends to, and what becomes of those that leave the window."""

    name: ClassVar[str] = ""
    streams: ClassVar[bool] = True
    """Whether the method reads a stream through a cache (False: it can only score)."""

    trained: ClassVar[bool] = False
    """Whether models are trained with the method: what was trained, if only the name, is kept beside the model's."""

    answers: ClassVar[bool] = False
    """Whether a token of an answer sees other things than one that is only read."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            _REGISTRY[cls.name] = cls

    def layout(self) -> tuple[int, int | None]:
        """(how many tokens at the start are kept as sinks, how many of the newest; None: all)."""
        raise NotImplementedError

    def parameters(self, plan: RotaryPlan, width: int) -> MemoryParameters | None:
        """Untrained parameters for a model of this plan and hidden size; None for a method that has none."""
        return None

    def check_untrained(self) -> None:
        """CapabilityError where a model that was not trained with the method cannot be read with it."""

    def stream_memory(self, plan: RotaryPlan, parameters: MemoryParameters | None) -> StreamMemory | None:
        """What takes the tokens that leave the window of a cache of this model; None: they are dropped.

        `parameters` are those trained for this model, or untrained ones; None for a method that has none.
        """
        return None

    def trainable(self, plan: RotaryPlan) -> TrainableCore | None:
        """What computes a layer under training; None for a method that has nothing to train."""
        return None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as YAML and the report show them."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in self.as_dict().items())
        return f"{self.name}({fields})"


def at_least(least: int, *, why: str, **field: int) -> None:
    """ConfigError unless the one named field is a whole number of at least `least`."""
    ((name, got),) = field.items()
    if not isinstance(got, int) or isinstance(got, bool) or got < least:
        raise ConfigError(f"{name}={got}: must be at least {least} ({why})")


def method_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def method_class(name: str) -> type[Method]:
    """The class registered as `name`; ConfigError names the nearest if there is none."""
    if name not in _REGISTRY:
        raise ConfigError(f"method {name!r}: does not exist; {nearest(name, _REGISTRY)}")
    return _REGISTRY[name]


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method `name` with `options` (strings are converted); ConfigError on unknown or wrong ones."""
    return build(method_class(name), options or {}, what=f"method {name}")
