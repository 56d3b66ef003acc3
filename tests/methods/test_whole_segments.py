"""The window of whole segments, read at once: equal to the window read column by column, for every cut."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong.methods.recurrent import memory

IDS = torch.randint(97, (1, 61), generator=torch.Generator().manual_seed(3))


def streamed(model, method, ids, cuts):
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=48)
        return torch.cat([model(part, past_key_values=cache).logits for part in ids.split(cuts, 1)], 1)


@pytest.mark.parametrize("cuts", [(32, 29), (8, 48, 5), (16, 16, 16, 13), (3, 17, 18, 23), (27, 34), (1, 1, 47, 12)])
@pytest.mark.parametrize(
    "method",
    [
        everlong.Infini(segment=8, local="segment"),
        everlong.Infini(segment=8, local="xl"),
        everlong.TransformerXL(segment=8, mem_len=13),
        everlong.TransformerXL(segment=8, mem_len=3),
    ],
    ids=lambda m: f"{m.name}-{getattr(m, 'local', '')}{getattr(m, 'mem_len', '')}",
)
def test_equal_to_the_window_read_by_columns(tiny_llama, monkeypatch, method, cuts):
    model, calls = tiny_llama(num_hidden_layers=2, initializer_range=0.3), []
    fast = memory.segment_attention
    monkeypatch.setattr(memory, "segment_attention", lambda *a: calls.append(1) or fast(*a))
    found = streamed(model, method, IDS, cuts)
    assert len(calls) == 2 * sum(cut >= 16 for cut in cuts)
    slow = streamed(model, method, IDS, 1)
    assert len(calls) == 2 * sum(cut >= 16 for cut in cuts)
    assert torch.allclose(found, slow, atol=2e-5 * slow.abs().max())


def test_rows_with_padding_take_the_columns(tiny_llama, monkeypatch):
    model = tiny_llama(num_hidden_layers=2, initializer_range=0.3)
    monkeypatch.setattr(memory, "segment_attention", None)
    method = everlong.Infini(segment=8)
    padded = torch.cat([IDS.new_zeros(1, 3), IDS[:, :45]], 1)
    mask = (torch.arange(48) >= 3).long()[None]
    with everlong.attach(model, method) as handle, torch.no_grad():
        found = model(padded, attention_mask=mask, past_key_values=handle.new_cache(chunk=48)).logits[:, 3:]
    slow = streamed(model, method, IDS[:, :45], 1)
    assert torch.allclose(found, slow, atol=2e-5 * slow.abs().max())
