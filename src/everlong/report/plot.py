"""Plots of streams as PNG files: perplexity, time and resident memory against the tokens read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlong.errors import CapabilityError
from everlong.report.stream import StreamCurve

COLOURS = {"dense": "#7a7f87", "window": "#c8452f", "recompute": "#4c9a5b", "sinks": "#2f66b3"}


def plot_streams(curves: Sequence[StreamCurve], path: Path, title: str, trained_tokens: int | None = None) -> Path:
    """`path`, with one panel each for perplexity (log scale), ms per token and resident memory.

    A line at `trained_tokens` marks the length that the model was trained on. CapabilityError without matplotlib.
    """
    figure, panels = _panels()
    for curve in curves:
        ends = [b.end for b in curve.bins]
        rows = (
            [curve.perplexity(b.start, b.end) for b in curve.bins],
            [1000 * b.seconds / (b.end - b.start) for b in curve.bins],
            [b.resident_bytes / 1e6 for b in curve.bins],
        )
        for panel, values in zip(panels, rows, strict=True):
            panel.plot(ends, values, label=curve.label, color=COLOURS.get(curve.label.split()[0]), linewidth=1.8)
    _name_panels(panels, trained_tokens)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def _panels() -> tuple[Any, Any]:
    """A figure without a window system, and its three panels."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise CapabilityError(
            "plot: needs matplotlib, which is not installed; pip install 'everlong[report]'"
        ) from None
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    return figure, figure.subplots(1, 3)


def _name_panels(panels: Any, trained_tokens: int | None) -> None:
    """Titles, axes, legend and the line at the trained length."""
    for panel, name in zip(panels, ("perplexity", "ms per token", "resident memory, MB"), strict=True):
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("tokens read")
        panel.grid(alpha=0.25)
        panel.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1000:g}K")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        if trained_tokens is not None:
            panel.axvline(trained_tokens, color="#bbbbbb", linestyle=":", linewidth=1)
    panels[0].set_yscale("log")
    panels[0].legend(frameon=False, fontsize=9)
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
