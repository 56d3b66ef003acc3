"""The plot of streams: a PNG with the curves in it, and a clear error where matplotlib is absent."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from everlong.errors import CapabilityError
from everlong.report.plot import plot_streams
from everlong.report.recall import RecallTable
from everlong.report.stream import Bin, StreamCurve

CURVES = [
    StreamCurve("dense", tuple(Bin(n, n + 10, 20.0 + n, 10, 0.1, 10**8) for n in (0, 10))),
    StreamCurve("sinks 4+8", tuple(Bin(n, n + 10, 20.0, 10, 0.1, 10**8) for n in (0, 10, 20))),
]


@pytest.mark.parametrize(("name", "begins"), [("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")])
def test_writes_the_format_that_the_name_asks_for(name: str, begins: bytes, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    path = plot_streams(CURVES, tmp_path / name, "title", trained_tokens=20)
    assert path.read_bytes().startswith(begins)
    assert path.stat().st_size > 5_000


def test_what_an_answer_drew_on_is_one_more_panel(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    recall = RecallTable(((0, 50, 0.2), (50, 90, 0.7), (90, 120, 0.1)), hidden=(60, 70), length=120)
    assert recall.share() == 0.7
    assert plot_streams(CURVES, tmp_path / "plot.png", "title", 20, recall).stat().st_size > 5_000


def test_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"pip install 'everlong\[report\]'"):
        plot_streams(CURVES, tmp_path / "plot.png", "title")
