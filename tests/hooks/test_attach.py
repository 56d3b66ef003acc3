"""Attaching: what it changes, what it checks, what it restores, and transformers' own generate."""

from __future__ import annotations

import gc

import pytest
import torch
import transformers

import everlong
from everlong.errors import AttachError, CapabilityError, PrecisionError, SelfCheckError

IDS = torch.randint(1, 97, (1, 120), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(max_position_embeddings=128, initializer_range=0.3)


def dense_logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_detach_restores_and_stock_forwards_are_untouched(model):
    before = dict(vars(model.model))
    expected = dense_logits(model, IDS)
    handle = everlong.attach(model, everlong.Sinks(sinks=2, window=5))
    assert torch.equal(dense_logits(model, IDS), expected)
    with torch.no_grad():
        stock = model(IDS, past_key_values=transformers.DynamicCache(config=model.config)).logits
    assert torch.equal(stock, expected)
    handle.detach()
    handle.detach()
    assert dict(vars(model.model)) == before


def test_the_last_to_close_restores(model):
    handle = everlong.attach(model, everlong.Dense())
    cache = handle.new_cache()
    fork = cache.fork()
    other = everlong.attach(model, everlong.Window(window=3))
    for thing in (handle.detach, cache.close, fork.close):
        thing()
        assert "forward" in vars(model.model)
    other.detach()
    assert "forward" not in vars(model.model)
    with pytest.raises(CapabilityError, match="detached"):
        handle.new_cache()


def test_a_dropped_cache_lets_go(model):
    with everlong.attach(model, everlong.Dense()) as handle:
        cache = handle.new_cache()
    assert "forward" in vars(model.model)
    del cache
    gc.collect()
    assert "forward" not in vars(model.model)


def test_methods_side_by_side(model):
    with (
        everlong.attach(model, everlong.Dense()) as a,
        everlong.attach(model, everlong.Window(window=3)) as b,
    ):
        dense, window = a.new_cache(), b.new_cache()
        with torch.no_grad():
            for piece in IDS[:, :40].split(8, 1):
                x = model(piece, past_key_values=dense).logits
                y = model(piece, past_key_values=window).logits
    torch.testing.assert_close(x, dense_logits(model, IDS[:, :40])[:, -8:], atol=1e-4, rtol=0)
    assert (x - y).abs().max() > 0.1


@pytest.mark.parametrize("how", ["twice", "never"])
def test_self_check_counts_calls(model, monkeypatch, how):
    attention = model.model.layers[1].self_attn
    original = type(attention).forward

    def twice(*args, **kwargs):
        original(attention, *args, **kwargs)
        return original(attention, *args, **kwargs)

    def never(hidden_states, past_key_values=None, **kwargs):
        if past_key_values is not None and hidden_states.shape[0] == 4:
            return original(attention, hidden_states, past_key_values=past_key_values, **kwargs)
        return hidden_states, None

    monkeypatch.setattr(attention, "forward", {"twice": twice, "never": never}[how])
    with pytest.raises(SelfCheckError, match="once in each of 2 layers"):
        everlong.attach(model, everlong.Dense())
    assert "forward" not in vars(model.model)


def test_self_check_compares_with_the_stock_model(model, monkeypatch):
    import everlong.cache.step as step

    monkeypatch.setattr(step, "attend", lambda parts, scale, *a, _a=step.attend: _a(parts, 2 * scale, *a))
    with pytest.raises(SelfCheckError, match="differ by"):
        everlong.attach(model, everlong.Dense())


def test_half_frequencies_are_refused(model):
    with pytest.raises(PrecisionError, match="dtype="):
        everlong.attach(model.to(torch.bfloat16), everlong.Dense())


def test_not_a_model():
    with pytest.raises(AttachError, match="expected a transformers model"):
        everlong.attach(torch.nn.Linear(2, 2), everlong.Dense())


def test_recompute_has_no_cache(model):
    with (
        everlong.attach(model, everlong.Recompute()) as handle,
        pytest.raises(CapabilityError, match="only score"),
    ):
        handle.new_cache()


GENERATE = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beam": {"num_beams": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "assisted": {"assistant_model": True},
}


@pytest.mark.parametrize("how", GENERATE)
def test_generate_is_stock_while_all_fits(model, how, recwarn):
    kwargs = {k: model if k == "assistant_model" else v for k, v in GENERATE[how].items()}
    kwargs |= {"max_new_tokens": 30, "pad_token_id": 0}
    with everlong.attach(model, everlong.Sinks(sinks=4, window=100)) as handle:
        torch.manual_seed(1)
        expected = model.generate(IDS[:, :20], **kwargs)
        torch.manual_seed(1)
        assert torch.equal(model.generate(IDS[:, :20], past_key_values=handle.new_cache(), **kwargs), expected)
    recwarn.clear()


@pytest.mark.parametrize("how", ["greedy", "sampling", "lookup"])
def test_generate_after_eviction_is_the_stream(model, how):
    kwargs = {"max_new_tokens": 60, "pad_token_id": 0} | GENERATE[how]
    with everlong.attach(model, everlong.Sinks(sinks=4, window=12)) as handle:
        torch.manual_seed(1)
        out = model.generate(IDS[:, :20], past_key_values=handle.new_cache(), **kwargs)
        cache, logits = handle.new_cache(), []
        with torch.no_grad():
            logits = torch.cat([model(i, past_key_values=cache).logits for i in out.split(1, 1)], 1)
    assert cache.report().dropped_tokens == 80 - 16
    if how != "sampling":
        assert torch.equal(logits[0, 19:-1].argmax(-1), out[0, 20:])


def test_left_padded_rows_equal_single_runs(model):
    short, long = IDS[:, 30:39], IDS[:, 60:75]
    batch = torch.cat([torch.cat([torch.zeros(1, 6, dtype=torch.long), short], 1), long])
    mask = torch.ones_like(batch)
    mask[0, :6] = 0
    with everlong.attach(model, everlong.Sinks(sinks=4, window=12)) as handle:
        settings = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}

        def run(ids, **more):
            return model.generate(ids, past_key_values=handle.new_cache(), **settings, **more)

        both = run(batch, attention_mask=mask)
        assert torch.equal(both[:1, 6:], run(short))
        assert torch.equal(both[1:], run(long))


def test_other_padding_is_refused(model):
    mask = torch.ones(1, 8, dtype=torch.long)
    mask[0, 5:] = 0
    with everlong.attach(model, everlong.Dense()) as handle, pytest.raises(CapabilityError, match="left padding"):
        model(IDS[:, :8], attention_mask=mask, past_key_values=handle.new_cache())


def test_training_is_refused(model):
    with everlong.attach(model, everlong.Dense()) as handle:
        cache = handle.new_cache()
        model.train()
        with pytest.raises(CapabilityError, match="inference"):
            model(IDS[:, :8], past_key_values=cache)
        model.eval()
