"""What a training task is: a frozen dataclass whose fields are its options, and any of its samples by number."""

from __future__ import annotations

import dataclasses
import importlib
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from everlong.config import Registry
from everlong.errors import ConfigError
from everlong.train.data.sample import Example

Progress = Callable[[int, int], None]
"""Told how many files are done, and of how many."""

_REGISTRY: Registry[TrainingTask] = Registry(
    "training task", lambda: importlib.import_module("everlong.train.data.tasks")
)
"""Every file in `tasks/` registers what it defines."""


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A kind of sample. A subclass with a `name` is registered; its fields are options of recipes."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _REGISTRY.add(cls)

    def samples(self, tokenizer: Any, segment: int, length: int, seed: int, index: int) -> Example:
        """Sample number `index` of the endless row of samples that `seed` begins, of at most `length` tokens.

        It depends on nothing else, so a run that resumes, or shares the work, needs no state but the number.
        `segment` is that of the method in tokens. ConfigError where the sizes leave no room.
        """
        raise NotImplementedError

    def texts(self) -> Iterable[str]:
        """Texts with every word that a sample can have, for a tokenizer of these alone; none where words are open."""
        return ()

    def prepare(self, tokenizer: Any, progress: Progress | None = None) -> None:
        """Do now what the first sample would wait for: read and tokenise books."""

    def rng(self, seed: int, index: int, *what: object) -> random.Random:
        """Random numbers of their own for a sample, or for `what` of it: none depends on another's draws."""
        return random.Random("/".join(map(str, (self.name, seed, index, *what))))

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


def check_sizes(segment: int, length: int) -> None:
    """ConfigError unless there is something to predict, and a segment lies within a sample."""
    if length < 2:
        raise ConfigError(f"length={length}: must be at least 2 (tokens of a sample)")
    if not 1 <= segment <= length:
        raise ConfigError(
            f"segment={segment}: expected 1..{length} (length={length}); make it shorter, or samples longer"
        )


def check_range(low: int | float, high: int | float, why: str, **field: int | float) -> None:
    """ConfigError unless the one named field is a number from `low` to `high`."""
    ((name, got),) = field.items()
    if not math.isfinite(got) or not low <= got <= high:
        wanted = f"must be at least {low:g}" if high == math.inf else f"expected {low:g}..{high:g}"
        raise ConfigError(f"{name}={got}: {wanted} ({why})")


task_names = _REGISTRY.names
task_class = _REGISTRY.find
make_task = _REGISTRY.make
