"""tail: the newest `window` tokens, and nothing else."""

from dataclasses import dataclass, field

from everlong.methods.base import Method
from everlong.methods.fields import at_least


@dataclass(frozen=True)
class Tail(Method):
    """The newest `window` tokens are kept."""

    name = "tail"
    window: int = field(default=16, metadata={"help": "tokens that are kept"})

    def __post_init__(self):
        at_least(1, window=self.window, why="tokens that are kept")

    def layout(self):
        """No sinks, a bounded window."""
        return 0, self.window
