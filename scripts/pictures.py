"""Draws docs/images/<method>.png: which earlier tokens each token sees, for a stream of 24 tokens.

And docs/images/infini-training.png: the training of the memory that comes with everlong.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

from everlong.report.training import plot

ROOT = Path(__file__).resolve().parent.parent
IMAGES, SHIPPED = ROOT / "docs" / "images", ROOT / "src" / "everlong" / "shipped" / "infini-passkey"
TOKENS, SINKS, WINDOW, SEGMENT = 24, 3, 8, 6
BLOCK, CELL, CHOSEN_PER_CELL = 3, 4, {12: (0,), 16: (0,), 20: (2,)}
"""Tokens per block and per cell, and which blocks come back for the cell that begins at a token."""
DROPPED, KEPT, SINK, FUTURE, CHOSEN, STORED = range(6)
COLOURS = ListedColormap(["#e9ebee", "#3b6fb6", "#e08a2c", "#ffffff", "#3f9b5f", "#cfe3d4"])
CAPTIONS = {
    "dense": "dense: all earlier tokens",
    "window": f"window: the last {WINDOW} tokens",
    "recompute": f"recompute: the last {WINDOW} tokens, run afresh each time",
    "blocks": f"blocks: sinks, window, and chosen blocks of {BLOCK} (green)",
    "sinks": f"sinks: the first {SINKS} tokens and the last {WINDOW}",
    "transformer_xl": f"transformer_xl: the segment of {SEGMENT}, and the {SEGMENT} tokens before it",
    "infini": f"infini: the segment of {SEGMENT}, the one before; what is behind, in a matrix (pale)",
    "delta": f"delta: the segment of {SEGMENT}, the one before; all there was, in a matrix (pale)",
    "infinity_former": f"infinity_former: the segment of {SEGMENT}; what is behind it, as a signal (pale)",
}


def seen(method: str) -> np.ndarray:
    """[query, key]: what the token of a row does with the token of a column."""
    query, key = np.indices((TOKENS, TOKENS))
    near = query - key < WINDOW
    grid = np.where(near if method != "dense" else key <= query, KEPT, DROPPED)
    if method == "blocks":
        _show_blocks(grid, query, key, near)
    if method in ("transformer_xl", "infini", "delta", "infinity_former"):
        back = 0 if method == "infinity_former" else SEGMENT
        near = key >= query - query % SEGMENT - back
        grid = np.where(near, KEPT, DROPPED if method == "transformer_xl" else STORED)
    if method in ("sinks", "blocks"):
        grid[~near & (key < SINKS)] = SINK
    return np.where(key > query, FUTURE, grid)


def _show_blocks(grid: np.ndarray, query: np.ndarray, key: np.ndarray, near: np.ndarray) -> None:
    """Sealed blocks pale, pending tokens as the window, chosen blocks green; one block comes back for each cell."""
    start = query // CELL * CELL
    sealed = np.maximum(0, (start - WINDOW - SINKS + 1) // BLOCK)
    block = (key - SINKS) // BLOCK
    grid[~near & (key >= SINKS)] = STORED
    grid[~near & (block >= sealed)] = KEPT
    for cell, chosen in CHOSEN_PER_CELL.items():
        grid[~near & (start == cell) & np.isin(block, chosen) & (key >= SINKS)] = CHOSEN


def draw(method: str, path: Path) -> None:
    """One picture: rows are queries, columns are keys."""
    figure, axes = plt.subplots(figsize=(4.2, 4.4), dpi=110)
    axes.pcolormesh(seen(method)[::-1], cmap=COLOURS, vmin=0, vmax=5, edgecolors="white", linewidth=1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("token attended to, oldest on the left")
    axes.set_ylabel("attending token, newest at the bottom")
    axes.set_title(CAPTIONS[method], fontsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Draws every picture and names it."""
    mpl.use("Agg")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for method in CAPTIONS:
        path = IMAGES / f"{method}.png"
        draw(method, path)
        print(f"wrote {path}")
    print(f"wrote {plot(SHIPPED / 'metrics.jsonl', IMAGES / 'infini-training.png')}")


if __name__ == "__main__":
    main()
