"""window: a token sees itself and the window - 1 tokens before it; older ones are dropped.

Constant memory, but the text breaks down when the first tokens leave the window, because trained models rest
attention on them (StreamingLLM, arXiv 2309.17453, section 3.1). Kept as the baseline that `sinks` repairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from everlong.methods.base import Method
from everlong.methods.fields import WINDOW_HELP, at_least


@dataclass(frozen=True)
class Window(Method):
    """The newest `window` tokens are kept."""

    name = "window"
    window: int = field(default=1020, metadata={"help": WINDOW_HELP})

    def __post_init__(self) -> None:
        at_least(1, window=self.window, why=WINDOW_HELP)

    def layout(self) -> tuple[int, int | None]:
        """No sinks, a bounded window."""
        return 0, self.window
