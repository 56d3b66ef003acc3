"""Codecs that store keys and values as numbers: `native` as they are, `bfloat16` rounded to that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.storage.codecs.base import Codec


class _Numbers(Codec):
    """Keys and values, one field each, in the type `stored`."""

    @property
    def stored(self) -> torch.dtype:
        """The type of the numbers in a record."""
        return self.dtype

    def fields(self) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
        """Keys, then values."""
        yield (self.heads, self.tokens, self.key_dim), self.stored
        yield (self.heads, self.tokens, self.value_dim), self.stored

    def fill(self, fields: Sequence[Tensor], k: Float[Tensor, "N G L D"], v: Float[Tensor, "N G L E"]) -> None:
        """Round to the stored type."""
        fields[0].copy_(k)
        fields[1].copy_(v)

    def restored(self, fields: Sequence[Tensor]) -> tuple[Float[Tensor, "*N G L D"], Float[Tensor, "*N G L E"]]:
        """The same numbers; views of the records where the stored type is `dtype`."""
        return fields[0].to(self.dtype), fields[1].to(self.dtype)


@dataclass(frozen=True)
class Native(_Numbers):
    """Nothing is lost: the numbers in the type that the model computes in."""

    name: ClassVar[str] = "native"


@dataclass(frozen=True)
class BFloat16(_Numbers):
    """Two bytes a number."""

    name: ClassVar[str] = "bfloat16"

    @property
    def stored(self) -> torch.dtype:
        """bfloat16, whatever the model computes in."""
        return torch.bfloat16
