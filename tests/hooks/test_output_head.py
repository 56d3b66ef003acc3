"""The output layer over few tokens: what torch gives, and the stock layer where it must be."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong.hooks import replacement
from everlong.ops.native import extension

IDS = torch.arange(12)[None] % 7


@pytest.mark.skipif(extension() is None, reason="the C extension was not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_tokens_give_what_the_layer_gives(tiny_llama, monkeypatch, dtype):
    model = tiny_llama()
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    calls = []
    plain = replacement.plain_linear
    monkeypatch.setattr(replacement, "plain_linear", lambda *args: (calls.append(1), plain(*args))[1])
    with torch.inference_mode():
        want = model(IDS[:, :3]).logits
        with everlong.attach(model, everlong.Window(window=8)):
            got = model(IDS[:, :3]).logits
            assert len(calls) == 1
            model(IDS.repeat(4, 1))
            assert len(calls) == 1
    torch.testing.assert_close(got, want)


def test_gradients_reach_the_output_layer(tiny_llama):
    model = tiny_llama()
    with everlong.attach(model, everlong.Window(window=8)):
        model(IDS[:, :3]).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_the_layer_is_as_before_when_nothing_is_attached(tiny_llama):
    model = tiny_llama()
    before = dict(vars(model.lm_head))
    with everlong.attach(model, everlong.Window(window=8)):
        assert "forward" in vars(model.lm_head)
    assert vars(model.lm_head).keys() == before.keys()
