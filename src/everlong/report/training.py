"""A picture of a training run: loss, gates, memory and speed by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from everlong.report.plot import check_matplotlib


def plot(metrics: Path, path: Path) -> Path:
    """`path`, drawn from the lines of a metrics.jsonl. CapabilityError without matplotlib."""
    check_matplotlib()
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    loss, gates, norm, speed = figure.subplots(2, 2).flat
    loss.plot(steps, [row["loss"] for row in rows], color="#2f66b3", linewidth=1.2)
    loss.set_yscale("log")
    _lines(gates, steps, [_flat(row.get("beta", [])) for row in rows])
    gates.set_ylim(0, 1)
    _lines(norm, steps, [row["memory_norm"] for row in rows])
    norm.set_yscale("log")
    speed.plot(steps, [row["tokens_per_s"] for row in rows], color="#4c9a5b", linewidth=1.2)
    speed.set_ylim(bottom=0)
    names = ("loss (weighted mean, nats)", "gates: share of the memory, a line per head")
    names += ("norm of the memory, a line per layer", "tokens per second")
    for panel, name in zip((loss, gates, norm, speed), names, strict=True):
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.25)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)
    return path


def _flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _lines(panel: Any, steps: list[int], values: list[list[float]]) -> None:
    """A line for each column of `values`."""
    for column in zip(*values, strict=True):
        panel.plot(steps, column, linewidth=0.9, alpha=0.8)
