"""Texts made of records, one of which is asked for by its name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from everlong.errors import ConfigError


@dataclass(frozen=True)
class Records:
    """Records, and which of them is asked for."""

    records: tuple[str, ...]
    asked: int

    @property
    def depth(self) -> float:
        """Where the asked one stands: 0 is the first, 1 the last."""
        return self.asked / max(1, len(self.records) - 1)

    @property
    def example(self) -> str:
        """The record half the text away from the asked one."""
        return self.records[(self.asked + len(self.records) // 2) % len(self.records)]

    def trimmed(self, **keep: int | None) -> Records:
        """So many records around the asked one, which stays at its depth; None keeps all.

        The one keyword is the option's name. ConfigError unless it is 2 or more, and no more than there are.
        """
        ((option, kept),) = keep.items()
        if kept is None:
            return self
        if not 2 <= kept <= len(self.records):
            raise ConfigError(f"{option}={kept}: a sample has {len(self.records)}; give a number from 2 to that")
        before = round(self.depth * (kept - 1))
        first = self.asked - before
        return replace(self, records=self.records[first : first + kept], asked=before)
