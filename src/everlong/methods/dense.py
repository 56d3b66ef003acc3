"""dense: every token sees all tokens before it. Exact, and its memory grows with the text.

The control for everything else: what an unmodified model computes (Attention Is All You Need, arXiv 1706.03762).
"""

from __future__ import annotations

from dataclasses import dataclass

from everlong.methods.base import Method


@dataclass(frozen=True)
class Dense(Method):
    """All tokens are kept; has no options."""

    name = "dense"

    def layout(self) -> tuple[int, int | None]:
        """No sinks apart, a window without end."""
        return 0, None
