"""What came back for a question, along the text that it was asked of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecallTable:
    """Passages (start, end, share of the attention), in characters of a text of `length`, and what was `hidden`."""

    passages: tuple[tuple[int, int, float], ...]
    hidden: tuple[int, int]
    length: int

    def share(self) -> float:
        """The share of the passages that the hidden span lies in, or reaches into."""
        start, end = self.hidden
        return sum((mass for first, last, mass in self.passages if first < end and start < last), 0.0)

    def plot(self, panel: Any) -> None:
        """Draw the shares along the text, and where the span was hidden."""
        for first, last, mass in self.passages:
            panel.bar(first, 100 * mass, width=last - first, align="edge", color="#8a5fb0")
        panel.axvline(sum(self.hidden) / 2, color="#c8452f", linestyle=":", linewidth=1.2)
        panel.annotate(
            "hidden here",
            (sum(self.hidden) / 2, 1.0),
            (4, -10),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8,
            color="#c8452f",
        )
        panel.set_xlim(0, self.length)
        panel.set_title("a key hidden in a text: what came back for the question, % of the vote", fontsize=10)
        panel.set_xlabel("place in the text, characters")
        panel.grid(alpha=0.25)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        panel.xaxis.set_major_formatter(lambda characters, _: f"{characters / 1000:g}K")
