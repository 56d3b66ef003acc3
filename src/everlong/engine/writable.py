"""What is asked of a stream that an answer is written on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.text.inputs import TokenHistory


class Writable(Protocol):
    """A stream that an answer is written on."""

    model: Any
    tokenizer: Any
    recent: TokenHistory

    @property
    def seen_tokens(self) -> int:
        """How many tokens the stream has read."""
        ...

    @property
    def prediction(self) -> Tensor | None:
        """The logits after the last token."""
        ...

    def feed(self, x: Any, answering: bool = False, source: str = "") -> int:
        """Read ids; what each remembers it chooses by itself with `answering`."""
        ...
