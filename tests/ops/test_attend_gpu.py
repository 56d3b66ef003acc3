"""Attention of many tokens on a GPU: the slow reference's numbers (here by Triton's interpreter)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everlong.ops import attend as module
from everlong.ops.attend import AttentionPart, attend, attend_naive
from everlong.ops.spans import KeyIntervals
from tests.ops.gpu_or_interpreter import device  # noqa: F401

pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton's interpreter
    pytest.mark.heavy(reason="by Triton's interpreter a kernel takes a thousand times as long as on a GPU"),
]


def parts(rows, tokens, dims, dtype, device, seed=0):  # noqa: F811
    """A window, with a column in front that nobody sees, and keys that only later queries see; one for each row."""
    generator = torch.Generator().manual_seed(seed)

    def made(*shape):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    heads, kv_heads, (D, E) = 6, 2, dims
    window = KeyIntervals.affine(tokens, lo=(-30, 0, 999), hi=(1, 0, 999))
    ends = np.stack([np.clip(np.arange(tokens) - 5 - row, 0, 9) for row in range(rows)])
    late = KeyIntervals(np.zeros_like(ends), ends)
    found = []
    for span, columns, start in ((window, tokens + 3, 1), (late, 11, 2)):
        keys = made(rows, kv_heads, columns + 2, D)[:, :, :columns], made(rows, kv_heads, columns, E)
        found.append(AttentionPart(made(rows, heads, tokens, D), *keys, span, start))
    return found


@pytest.mark.parametrize("dims", [(64, 64), (24, 40), (80, 80)])
@pytest.mark.parametrize(
    ("rows", "tokens", "softcap", "aux"),
    [(1, 70, None, False), (2, 37, None, True), (1, 130, 3.0, False), (2, 16, 3.0, True)],
)
def test_equals_the_slow_reference(device, monkeypatch, dims, rows, tokens, softcap, aux):  # noqa: F811
    asked = []
    on_gpu = module.on_gpu.attend_on_gpu
    monkeypatch.setattr(module.on_gpu, "attend_on_gpu", lambda *args: (asked.append(1), on_gpu(*args))[1])
    given = parts(rows, tokens, dims, torch.float32, device)
    s_aux = torch.linspace(-1, 1, 6, device=device) if aux else None
    monkeypatch.setattr(module, "reader", lambda *args: None)
    found = attend(given, 0.3, softcap, s_aux)
    assert asked
    torch.testing.assert_close(found, attend_naive(given, 0.3, softcap, s_aux), atol=2e-5, rtol=0)


def test_a_query_that_sees_nothing_gets_nothing(device):  # noqa: F811
    blind = KeyIntervals(np.zeros((1, 20), dtype=np.int64), np.maximum(np.arange(20)[None] - 10, 0))
    x = torch.ones(1, 2, 20, 32, device=device)
    out = module.on_gpu.attend_on_gpu([(x, x[:, :1], x[:, :1], 0, blind)], 1.0, None, None)
    assert out[:, :11].abs().max() == 0
    torch.testing.assert_close(out[:, 11:], torch.ones_like(out[:, 11:]))


def test_half_precision_is_near(device, monkeypatch):  # noqa: F811
    if device.type == "cpu":
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16")
    monkeypatch.setattr(module, "reader", lambda *args: None)
    given = parts(1, 90, (64, 64), torch.bfloat16, device)
    exact = [AttentionPart(p.q.float(), p.k.float(), p.v.float(), p.span, p.start) for p in given]
    torch.testing.assert_close(attend(given, 0.3).float(), attend_naive(exact, 0.3), atol=0.03, rtol=0)
