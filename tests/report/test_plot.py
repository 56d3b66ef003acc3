"""The plot of streams: a PNG with the curves in it, and a clear error where matplotlib is absent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from everlong.errors import CapabilityError
from everlong.report.plot import plot_streams
from everlong.report.stream import Bin, StreamCurve

CURVES = [
    StreamCurve("dense", tuple(Bin(n, n + 10, 20.0 + n, 10, 0.1, 10**8) for n in (0, 10))),
    StreamCurve("sinks 4+8", tuple(Bin(n, n + 10, 20.0, 10, 0.1, 10**8) for n in (0, 10, 20))),
]


def test_writes_a_png_and_makes_its_folder(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    path = plot_streams(CURVES, tmp_path / "new" / "plot.png", "title", trained_tokens=20)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5_000


def test_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CapabilityError, match=r"pip install 'everlong\[report\]'"):
        plot_streams(CURVES, tmp_path / "plot.png", "title")
