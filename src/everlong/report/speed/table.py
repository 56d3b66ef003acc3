"""Rows of speed as lines of a table."""

from __future__ import annotations

from everlong.report import figures
from everlong.report.speed.rows import SpeedRow

HEADER = ("what", "method", "context", "by", "wall", "CPU", "unit", "spread", "ratio", "CPU ratio (quartiles)")
RIGHT = ("context", "wall", "CPU", "spread", "ratio")
"""The columns that are aligned at their ends; the spread is that of CPU time."""


def profile_line(row: SpeedRow) -> str:
    """What a decoded token's CPU time goes into."""
    parts = ", ".join(f"{label} {ms:.2f}" for label, ms in row.profile.items())
    return f"{row.method} at {figures.tokens(row.context)}, CPU ms of a token: {parts}"


def lines(row: SpeedRow) -> list[tuple[str, ...]]:
    """The lines of a row: everlong's, and one for each peer."""
    unit = {"ms_per_token": "ms", "tokens_per_s": "tok/s", "ms": "ms"}[row.unit]
    place = (row.what, row.method, figures.tokens(row.context))
    own = row.everlong
    found: list[tuple[str, ...]] = [
        (*place, "everlong", f"{own.wall:.2f}", f"{own.cpu:.2f}", unit, f"{100 * own.cpu_spread:.0f} %", "", "")
    ]
    for name, peer in row.peers.items():
        low, high = peer.cpu_ratio_quartiles
        ratios = (f"{peer.ratio:.2f}", f"{peer.cpu_ratio:.2f} ({low:.2f}, {high:.2f})")
        found.append(
            ("", "", "", name, f"{peer.wall:.2f}", f"{peer.cpu:.2f}", unit, f"{100 * peer.cpu_spread:.0f} %", *ratios)
        )
    return found
