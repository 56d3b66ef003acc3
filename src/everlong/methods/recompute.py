"""recompute: the newest `window` tokens are run afresh through the model, at positions 0.., for every new token.

The slow gold standard of a bounded context: no token carries anything from outside its window ("sliding window
with re-computation", arXiv 2309.17453, figure 1c). It keeps no cache, so it can only score.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from everlong.methods.base import Method
from everlong.methods.fields import WINDOW_HELP, at_least


@dataclass(frozen=True)
class Recompute(Method):
    """The newest `window` tokens are run again for each token."""

    name = "recompute"
    streams = False
    window: int = field(default=1020, metadata={"help": WINDOW_HELP})

    def __post_init__(self) -> None:
        at_least(1, window=self.window, why=WINDOW_HELP)

    def layout(self) -> tuple[int, int | None]:
        """What one run sees."""
        return 0, self.window
