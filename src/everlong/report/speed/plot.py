"""A picture of a run of `everlong bench`: a panel for each thing measured, CPU time against the context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlong.report import figures
from everlong.report.plot import check_matplotlib
from everlong.report.speed.rows import SpeedRow

_TITLES = {
    "decode": "decoding, CPU ms per token",
    "choice": "choice of blocks, CPU ms per token",
    "read": "reading, tokens per CPU second",
    "resume": "open and first token, CPU ms",
}
_MARKS = "osD^vPX*"


def plot_speed(rows: Sequence[SpeedRow], path: Path, title: str) -> Path:
    """`path`, with a line for each method and peer; its ending names the format."""
    check_matplotlib()
    from matplotlib.figure import Figure

    whats = list(dict.fromkeys(row.what for row in rows))
    figure = Figure(figsize=(5 * len(whats), 3.8), layout="constrained")
    for what, panel in zip(whats, figure.subplots(1, len(whats), squeeze=False)[0], strict=True):
        _panel(panel, what, [row for row in rows if row.what == what])
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def _panel(panel: Any, what: str, rows: Sequence[SpeedRow]) -> None:
    lines: dict[str, dict[int, float]] = {}
    for row in rows:
        lines.setdefault(f"everlong {row.method}", {})[row.context] = row.everlong.cpu
        for name, peer in row.peers.items():
            lines.setdefault(name, {})[row.context] = peer.cpu
    for n, (label, points) in enumerate(lines.items()):
        panel.plot(list(points), list(points.values()), marker=_MARKS[n % len(_MARKS)], label=label, linewidth=1.6)
    contexts = sorted({row.context for row in rows})
    panel.set_xscale("log", base=2)
    panel.set_xticks(contexts, [figures.tokens(context) for context in contexts])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.set_xlabel("tokens read before")
    panel.set_title(_TITLES[what], fontsize=10)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=8)
