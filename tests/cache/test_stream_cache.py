"""The cache as transformers sees it, and what a stream may rely on: failure, forks, crops, bytes, state."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong.cache.state import load_stream, stream_state
from everlong.errors import CapabilityError

IDS = torch.randint(97, (1, 400), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=3, max_position_embeddings=64, initializer_range=0.3)


def read(model, cache, ids, chunk=7):
    with torch.no_grad():
        return torch.cat([model(p, past_key_values=cache, use_cache=True).logits for p in ids.split(chunk, dim=1)], 1)


@pytest.fixture
def handle(model):
    with everlong.attach(model, everlong.Sinks(sinks=4, window=12)) as handle:
        yield handle


def test_a_failed_forward_leaves_the_stream_as_it_was(model, handle, monkeypatch):
    for tokens in (5, 200):
        cache, twin = handle.new_cache(chunk=16), handle.new_cache(chunk=16)
        read(model, cache, IDS[:, :100])
        read(model, twin, IDS[:, :100])
        with monkeypatch.context() as patch:
            patch.setattr(model.model.layers[1].mlp, "forward", lambda x: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt), torch.no_grad():
                model(IDS[:, 100 : 100 + tokens], past_key_values=cache, use_cache=True)
        assert cache.stream.seen_tokens == 100
        assert model.config._attn_implementation != "everlong"
        assert torch.equal(read(model, cache, IDS[:, 100:130]), read(model, twin, IDS[:, 100:130]))


def test_fork_and_state_go_on_alike(model, handle):
    cache = handle.new_cache(chunk=16)
    read(model, cache, IDS[:, :150])
    tensors, facts = stream_state(cache.stream)
    restored = handle.new_cache()
    load_stream(restored.stream, tensors, facts)
    forked = cache.fork()
    assert sum(t.shape[2] for t in tensors.values()) == 6 * (4 + 11)
    expected = read(model, cache, IDS[:, 150:260])
    for other in (forked, restored):
        assert torch.equal(read(model, other, IDS[:, 150:260]), expected)
        assert other.report() == cache.report()


def test_fork_is_independent(model, handle):
    cache = handle.new_cache()
    read(model, cache, IDS[:, :50])
    fork = cache.fork()
    read(model, fork, IDS[:, 300:380])
    twin = handle.new_cache()
    read(model, twin, IDS[:, :50])
    assert torch.equal(read(model, cache, IDS[:, 50:90]), read(model, twin, IDS[:, 50:90]))


def test_crop_forgets_exactly(model, handle):
    for start, extra in ((8, 5), (100, 6)):
        cache, twin = handle.new_cache(), handle.new_cache()
        read(model, cache, IDS[:, :start], chunk=1)
        read(model, twin, IDS[:, :start], chunk=1)
        read(model, cache, IDS[:, 300 : 300 + extra])
        cache.crop(-extra)
        assert cache.stream.seen_tokens == start
        torch.testing.assert_close(
            read(model, cache, IDS[:, start : start + 70]), read(model, twin, IDS[:, start : start + 70])
        )


def test_crop_past_what_is_kept_is_refused(model, handle):
    cache = handle.new_cache(chunk=8)
    read(model, cache, IDS[:, :200])
    with pytest.raises(CapabilityError, match="left the window"):
        cache.crop(-50)
    assert cache.stream.seen_tokens == 200


def test_bytes_are_bounded_and_declared(model, handle):
    cache = handle.new_cache(chunk=16)
    read(model, cache, IDS[:, :40], chunk=16)
    held = cache.report().bytes["device"]
    assert held == handle.plan.bytes_per_token() * (4 + 11 + 16)
    read(model, cache, IDS, chunk=16)
    assert cache.report().bytes["device"] == held


def test_report_adds_up(model, handle):
    cache = handle.new_cache()
    for n in (0, 3, 10, 100):
        if n:
            read(model, cache, IDS[:, :n])
        r = cache.report()
        assert r.seen_tokens == r.sink_tokens + r.window_tokens + r.stored_tokens + r.dropped_tokens
    assert (r.sink_tokens, r.window_tokens, r.dropped_tokens) == (4, 12, 113 - 16)


def test_positions_stay_bounded(model, handle, monkeypatch):
    highest = 0
    rotary = model.model.rotary_emb.forward

    def spy(x, position_ids):
        nonlocal highest
        highest = max(highest, int(position_ids.max()))
        return rotary(x, position_ids)

    monkeypatch.setattr(model.model.rotary_emb, "forward", spy)
    cache = handle.new_cache()
    read(model, cache, IDS)
    assert highest < 64
    assert len(cache.stream.segments) <= 2


@pytest.mark.parametrize("offset", [50_000_000, 1 << 31])
def test_the_same_after_fifty_million_tokens(model, handle, offset):
    """A stream that has read `offset` tokens more, and whose sinks and window hold the same, goes on alike."""
    near, late = handle.new_cache(), handle.new_cache()
    read(model, near, IDS[:, :200])
    tensors, facts = stream_state(near.stream)
    facts = facts | {
        "seen": facts["seen"] + offset,
        "segments": [[s + offset, b + offset] for s, b in facts["segments"]],
        "shifts": {i: s + offset for i, s in facts["shifts"].items()},
    }
    load_stream(late.stream, tensors, facts)
    expected = read(model, near, IDS[:, 200:])
    torch.testing.assert_close(read(model, late, IDS[:, 200:]), expected, atol=1e-4, rtol=0)


def test_a_cache_of_another_model_is_refused(model, handle, tiny_llama):
    other = tiny_llama(seed=9)
    with everlong.attach(other, everlong.Dense()) as there:
        cache = there.new_cache()
        with pytest.raises(CapabilityError, match="another model"):
            read(model, cache, IDS[:, :4])
    with pytest.raises(CapabilityError, match="outside a forward"):
        cache.update(torch.zeros(1), torch.zeros(1), 0)


def test_rows_must_stay(model, handle):
    cache = handle.new_cache()
    read(model, cache, IDS[:, :4])
    with pytest.raises(CapabilityError, match="holds 1 rows, got 2"):
        read(model, cache, IDS[:, :4].expand(2, -1))
