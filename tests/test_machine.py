"""What a figure was measured on."""

from __future__ import annotations

import torch

from everlong import machine
from everlong.machine import circumstances


def test_a_gpu_is_named_beside_a_figure(monkeypatch):
    assert "H200" not in circumstances()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert "; NVIDIA H200, " in circumstances()


def test_half_products_are_told_by_their_flags(monkeypatch):
    def multiplies(flags):
        monkeypatch.setattr(machine, "_cpu_facts", lambda: {"flags": flags})
        return [machine.multiplies.__wrapped__(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)]

    assert multiplies("avx2 avx512f avx512_vnni") == [False, False, False]
    assert multiplies("avx512f avx512_bf16") == [True, False, False]
    assert multiplies("amx_bf16 avx512_fp16") == [True, True, False]
