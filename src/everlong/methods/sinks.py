"""sinks: StreamingLLM. A token sees the first `sinks` tokens of the stream and the newest `window` tokens.

The first tokens collect the attention that a softmax must put somewhere, so keeping them keeps the model fluent
for ever in constant memory (arXiv 2309.17453, section 3.2). Positions are places in the cache: sinks stand at
0..S-1, the newest token at min(t, S + W - 1). The authors' code rotates every cached key again at each token and
copies the whole cache; here no stored key is ever turned (a second query meets the sinks), and any number of tokens
can be read at once with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from everlong.methods.base import Method
from everlong.methods.fields import SINKS_HELP, WINDOW_HELP, at_least


@dataclass(frozen=True)
class Sinks(Method):
    """The first `sinks` and the newest `window` tokens are kept."""

    name = "sinks"
    sinks: int = field(default=4, metadata={"help": SINKS_HELP})
    window: int = field(default=1020, metadata={"help": WINDOW_HELP})

    def __post_init__(self) -> None:
        at_least(0, sinks=self.sinks, why=SINKS_HELP)
        at_least(1, window=self.window, why=WINDOW_HELP)

    def layout(self) -> tuple[int, int | None]:
        """Both bounded."""
        return self.sinks, self.window
