"""Plots of streams: perplexity, time and resident memory against the tokens read."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlong.errors import CapabilityError, ConfigError
from everlong.report.recall import RecallTable
from everlong.report.stream import StreamCurve

COLOURS = {"dense": "#7a7f87", "window": "#c8452f", "recompute": "#4c9a5b", "sinks": "#2f66b3"}


def plot_streams(
    curves: Sequence[StreamCurve],
    path: Path,
    title: str,
    trained_tokens: int | None = None,
    recall: RecallTable | None = None,
) -> Path:
    """`path`, with one panel each for perplexity (log scale), ms per token and resident memory, and one for `recall`.

    The ending of `path` names the format. A line at `trained_tokens` marks the length that the model was trained
    on. CapabilityError without matplotlib.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6) if recall is None else (12, 6.8), layout="constrained")
    panels = list(figure.subplots(*((1, 3) if recall is None else (2, 2))).flat)
    if recall is not None:
        recall.plot(panels.pop())
    for curve in curves:
        ends = [b.end for b in curve.bins]
        perplexity = [curve.perplexity(b.start, b.end) for b in curve.bins]
        megabytes = [b.resident_bytes / 1e6 for b in curve.bins]
        rows = (perplexity, [b.ms_per_token for b in curve.bins], megabytes)
        for panel, values in zip(panels, rows, strict=True):
            panel.plot(ends, values, label=curve.label, color=_colour(curve.label), linewidth=1.8)
    _name_panels(panels, trained_tokens)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    return path


def check_matplotlib() -> None:
    """CapabilityError where there is no matplotlib, which comes with an extra."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CapabilityError("plot: needs matplotlib, which is not installed; pip install 'everlong[report]'")


def check_picture(plot: Path | None) -> None:
    """CapabilityError or ConfigError for a picture that could not be drawn: said before the work."""
    if plot is None:
        return
    check_matplotlib()
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"plot={plot}: expected a name that ends in .png, .svg or .pdf")


def _colour(label: str) -> str | None:
    """The same colour for a method in every plot; matplotlib chooses for others."""
    return next((colour for name, colour in COLOURS.items() if label.startswith(name)), None)


def _name_panels(panels: Any, trained_tokens: int | None) -> None:
    """Titles, axes, legend and the line at the trained length."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for panel, name in zip(panels, ("perplexity", "ms per token", "resident memory, MB"), strict=True):
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("tokens read")
        panel.grid(alpha=0.25)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1000:g}K")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        if trained_tokens is not None:
            panel.axvline(trained_tokens, color="#bbbbbb", linestyle=":", linewidth=1)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].legend(frameon=False, fontsize=9)
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
