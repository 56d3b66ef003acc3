"""What is timed: something that has read a context, and reads on behind it, or goes back to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import DynamicCache

from everlong.engine.runner import Forward
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.session import Session


@runtime_checkable
class Reader(Protocol):
    """A model in some program, behind a context that it was given when it was made."""

    name: str

    def read(self, ids: Sequence[int]) -> Any:
        """Read `ids` as a text is read; the logits behind the last are made."""
        ...

    def decode(self, ids: Sequence[int]) -> Any:
        """Read `ids` one by one, as tokens that are written are."""
        ...

    def back(self) -> Any:
        """Go back to the end of the context, where what is kept would grow."""
        ...

    def close(self) -> Any:
        """Free what it holds."""
        ...


class EverlongReader:
    """A session with a method. One whose memory is bounded reads on; others go back."""

    name = "everlong"

    def __init__(self, loaded: Loaded, method: Method, ids: Sequence[int], chunk: int) -> None:
        self.session = Session(loaded, method, chunk=chunk)
        self.session.feed(list(ids))
        self._mark = self.session.mark() if method.layout()[1] is None else None

    def read(self, ids: Sequence[int]) -> None:
        """A piece of the text."""
        self.session.feed(list(ids))

    def decode(self, ids: Sequence[int]) -> None:
        """Tokens of an answer: each chooses for itself what is remembered."""
        for token in ids:
            self.session.feed([token], answering=True)

    def back(self) -> None:
        """To the context, if the method keeps all."""
        if self._mark is not None:
            self.session.rewind(self._mark)

    def close(self) -> None:
        """Free the cache."""
        self.session.close()


class TransformersReader:
    """Plain transformers with a DynamicCache."""

    name = "transformers"

    def __init__(self, stock: Any, ids: Sequence[int], chunk: int) -> None:
        self._forward = Forward(stock)
        self._cache = DynamicCache(config=stock.config)
        self._context = len(ids)
        for start in range(0, len(ids), chunk):
            self.read(ids[start : start + chunk])

    def read(self, ids: Sequence[int]) -> Tensor:
        """One forward; the logits of the last."""
        return self._forward(torch.tensor([list(ids)]), 1, past_key_values=self._cache, use_cache=True)

    def decode(self, ids: Sequence[int]) -> None:
        """One forward for each."""
        for token in ids:
            self.read([token])

    def back(self) -> None:
        """Crop the cache."""
        self._cache.crop(self._context - self._cache.get_seq_length())

    def close(self) -> None:
        """Nothing is held outside the object."""
