"""What a figure was measured on."""

from __future__ import annotations

import torch

from everlong.machine import circumstances


def test_a_gpu_is_named_beside_a_figure(monkeypatch):
    assert "H200" not in circumstances()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert "; NVIDIA H200, " in circumstances()
