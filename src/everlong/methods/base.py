"""What a method is: a frozen dataclass whose fields are its arguments, YAML keys and `-o` options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_type_hints

from everlong.config import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlong.cache.stream_memory import StreamMemory
    from everlong.methods.blocks.recall.index import MakeRecall
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.methods.recurrent.training import TrainableCore
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store

_REGISTRY: Registry[Method] = Registry("method")


@dataclass(frozen=True)
class Method:
    """Which tokens a token attends to, and what becomes of those that leave the window.

    A subclass with a `name` of its own is registered under it.
    """

    name: ClassVar[str] = ""
    streams: ClassVar[bool] = True
    """Whether the method reads a stream through a cache (False: it can only score)."""

    trained: ClassVar[bool] = False
    """Whether models are trained with the method: what was trained, if only the name, is kept beside the model's."""

    answers: ClassVar[bool] = False
    """Whether a token of an answer sees other things than one that is only read."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _REGISTRY.add(cls)

    def layout(self) -> tuple[int, int | None]:
        """(how many tokens at the start are kept as sinks, how many of the newest; None: all)."""
        raise NotImplementedError

    @property
    def kept_store(self) -> str:
        """The name of the store that has the blocks of a kept session."""
        return "disk"

    def in_memory(self) -> Method:
        """The same for a stream that is kept nowhere."""
        return self

    def parameters(self, plan: ModelLayout, width: int) -> MemoryParameters | None:
        """Untrained parameters for a model of this plan and hidden size; None for a method that has none."""
        return None

    def check_untrained(self) -> None:
        """CapabilityError where a model that was not trained with the method cannot be read with it."""

    def stream_memory(
        self,
        plan: ModelLayout,
        parameters: MemoryParameters | None,
        make_store: Callable[[], Store],
        make_recall: MakeRecall,
    ) -> StreamMemory | None:
        """What takes the tokens that leave the window of a cache of this model; None: they are dropped.

        `parameters` are those trained for this model, or untrained ones; None for a method that has none. A method
        that stores tokens asks `make_store` for the place of each row's, and `make_recall` for the index that questions
        are compared with.
        """
        return None

    def trainable(self, plan: ModelLayout) -> TrainableCore | None:
        """What computes a layer under training; None for a method that has nothing to train."""
        return None

    def controls(self) -> list[str]:
        """Values of the field `memory` that show what a memory is worth, "on" first; "on" alone without that field."""
        return list(get_args(get_type_hints(type(self)).get("memory"))) or ["on"]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as YAML and the report show them."""
        return dataclasses.asdict(self)

    def recipe(self) -> dict[str, Any]:
        """What `make_method` makes it from again: name and fields; ConfigError for a class without its own name."""
        return {"name": _REGISTRY.name_of(self), "fields": self.as_dict()}

    def __str__(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in self.as_dict().items())
        return f"{self.name}({fields})"


method_names = _REGISTRY.names
method_class = _REGISTRY.find
make_method = _REGISTRY.make
