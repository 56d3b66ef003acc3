"""Detaching puts back exactly what was there, whoever else wrapped the model's forward, and copies stand alone."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

import everlong
from everlong.errors import CapabilityError
from everlong.hooks.replacement import Replacement
from tests.families.configs import FAMILIES
from tests.families.models import build, stream, tokens

IDS = tokens(60)
TIGHT = everlong.Sinks(sinks=4, window=12)
METHODS = [
    TIGHT,
    everlong.Dense(),
    everlong.Blocks(sinks=2, window=8, block=4, top_k=2, exec_chunk=4, recall="layer"),
    everlong.Infini(segment=8),
    everlong.Delta(segment=8),
]


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(vocab_size=101, max_position_embeddings=128, initializer_range=0.3)


class Counting(ModelHook):
    """A hook of accelerate's that counts forwards."""

    def __init__(self):
        self.calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


def by_hand(decoder):
    """What many packages do: a function on the instance that calls the forward it found; returns its log."""
    found, log = decoder.forward, []

    def forward(*args, **kwargs):
        log.append(len(log))
        return found(*args, **kwargs)

    decoder.forward = forward
    return log


def by_wraps(decoder):
    found, log = decoder.forward, []

    @functools.wraps(found)
    def forward(input_ids=None, **kwargs):
        log.append(len(log))
        return found(input_ids=input_ids, **kwargs)

    decoder.forward = forward
    return log


def by_accelerate(decoder):
    hook = Counting()
    add_hook_to_module(decoder, hook)
    return hook


def calls(log):
    return log.calls if isinstance(log, Counting) else len(log)


@pytest.fixture
def expected(model):
    """The stream's logits of the model, attached by itself."""
    with everlong.attach(model, TIGHT) as handle:
        return stream(model, handle.new_cache(), IDS, 7)


WRAPS = [by_hand, by_wraps, by_accelerate]


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_wrapped_the_forward_before_works_and_is_there_after(model, expected, wrap):
    log, decoder = wrap(model.model), model.model
    before = dict(vars(decoder))
    with everlong.attach(model, TIGHT) as handle:
        seen = calls(log)
        # By the modules, where a model that nobody wrapped is run from a list.
        torch.testing.assert_close(stream(model, handle.new_cache(), IDS, 7), expected, atol=1e-4, rtol=0)
        assert calls(log) == seen + 9
    assert dict(vars(decoder)) == before
    with everlong.attach(model, everlong.Dense()):
        pass
    assert dict(vars(decoder)) == before


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_wraps_the_forward_meanwhile_works_and_stays(model, expected, wrap):
    handle, decoder = everlong.attach(model, TIGHT), model.model
    stock = type(decoder).forward
    log = wrap(decoder)
    assert torch.equal(stream(model, handle.new_cache(), IDS, 7), expected)
    assert calls(log) == 9
    with everlong.attach(model, TIGHT) as second:
        assert second.plan is handle.plan
        assert torch.equal(stream(model, second.new_cache(), IDS, 7), expected)
    wrapped = decoder.forward
    handle.detach()
    assert decoder.forward is wrapped
    assert "everlong_forward" not in vars(decoder)
    if wrap is by_accelerate:
        assert decoder._old_forward.__func__ is stock
        remove_hook_from_module(decoder)
        assert decoder.forward.__func__ is stock
    with everlong.attach(model, TIGHT) as again:
        # What is wrapped before it is attached runs by its modules, and no longer from the list: other last bits.
        torch.testing.assert_close(stream(model, again.new_cache(), IDS, 7), expected, rtol=0, atol=1e-5)
    want = stream(model, None, IDS, 60)
    assert torch.isfinite(want).all()


@pytest.mark.parametrize(
    ("name", "method"), [("gptj", "_attn"), ("mpt", "build_mpt_alibi_tensor"), ("bloom", "build_alibi_tensor")]
)
def test_methods_of_the_instance_are_there_after_a_step(name, method):
    model = build(next(f for f in FAMILIES if f.name == name))
    owner = next(m for m in model.modules() if hasattr(m, method))
    mine = functools.partial(getattr(owner, method))
    setattr(owner, method, mine)
    with everlong.attach(model, TIGHT) as handle:
        stream(model, handle.new_cache(), tokens(20), 7)
        assert vars(owner)[method] is mine
    assert vars(owner)[method] is mine


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_cache_is_a_fork(model, method, how):
    with everlong.attach(model, method) as handle:
        cache = handle.new_cache()
        stream(model, cache, IDS[:, :40], 7)
        other = how(cache)
        want = stream(model, cache.fork(), IDS[:, 40:], 7)
        stream(model, cache, IDS[:, :20], 7)
        assert torch.equal(stream(model, other, IDS[:, 40:], 7), want)
        assert cache.stream.seen_tokens == other.stream.seen_tokens == 60
        other.close()
        cache.close()
    assert "forward" not in vars(model.model)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_of_an_attached_model_is_a_plain_model(model, expected, how):
    want = stream(model, None, IDS, 60)
    with everlong.attach(model, TIGHT) as handle:
        other = how(model)
        with pytest.raises(CapabilityError, match="used outside a forward"):
            stream(other, handle.new_cache(), IDS, 7)
    assert torch.equal(stream(other, None, IDS, 60), want)
    other.model.embed_tokens.weight.data.mul_(2)
    assert not torch.equal(stream(other, None, IDS, 60), want)
    other.model.embed_tokens.weight.data.div_(2)
    with everlong.attach(other, TIGHT) as handle:
        assert torch.equal(stream(other, handle.new_cache(), IDS, 7), expected)


def test_a_holder_that_is_collected_while_another_comes_takes_nothing_with_it(model, monkeypatch):
    expected = model(IDS).logits
    first, found = everlong.attach(model, TIGHT), Replacement.of

    def collected(module):
        try:
            return found(module)
        finally:
            first.detach()

    monkeypatch.setattr(Replacement, "of", collected)
    with everlong.attach(model, everlong.Dense()) as handle:
        got = stream(model, handle.new_cache(), IDS, [20, 40])
    torch.testing.assert_close(got, expected)
    assert "forward" not in vars(model.model)


def test_a_cache_that_outlives_the_program_is_left_alone(model):
    with everlong.attach(model, TIGHT) as handle:
        cache = handle.new_cache()
    cache.__del__(lambda: True)
    assert "forward" in vars(model.model)
    del cache
    assert "forward" not in vars(model.model)
