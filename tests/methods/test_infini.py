"""Infini-attention through a whole model against the paper's equations, and the known bugs of public code.

Each bug is put in by hand, and the check that passes without it must fail with it.
"""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

import everlong
from everlong.hooks.training import attach_training
from everlong.methods.infini import memory as streaming
from everlong.methods.recurrent import memory as recurrent
from everlong.ops import infini as ops
from everlong.ops.compressive import fold, recall
from everlong.ops.infini import infini_attention_naive

SEGMENT = 8
IDS = torch.randint(97, (2, 61), generator=torch.Generator().manual_seed(1))
BETA = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)
KINDS = list(itertools.product(("linear", "delta"), ("segment", "xl")))


ANGLES = 1e-5
"""The model computes its angles in float32, whatever its type: they are undone to within this."""


@pytest.fixture
def model(tiny_llama):
    """Three layers in float64, two query heads for each kv head."""
    return tiny_llama(num_hidden_layers=3, initializer_range=0.3, max_position_embeddings=64).double()


def naive(model, method, ids, betas=BETA):
    """Logits of rows of ids by the slow reference in every layer."""
    c = model.config
    H, G, D = c.num_attention_heads, c.num_key_value_heads, c.hidden_size // c.num_attention_heads
    rows = []
    for row in ids:
        x = model.model.embed_tokens(row)
        angles = torch.arange(len(row), dtype=torch.float64)[:, None] * model.model.rotary_emb.inv_freq.double()
        cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
        for layer, beta in zip(model.model.layers, betas, strict=True):
            h, attention = layer.input_layernorm(x), layer.self_attn
            q, k, v = (
                proj(h).view(len(row), heads, D).transpose(0, 1)
                for proj, heads in ((attention.q_proj, H), (attention.k_proj, G), (attention.v_proj, G))
            )
            turned = [y * cos + torch.cat([-y[..., D // 2 :], y[..., : D // 2]], -1) * sin for y in (q, k)]
            out = infini_attention_naive(
                *turned, v, q, k, beta.sigmoid(), method.segment, D**-0.5, method.update, method.local == "xl"
            )
            x = x + attention.o_proj(out.transpose(0, 1).reshape(len(row), -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        rows.append(model.lm_head(model.model.norm(x)))
    return torch.stack(rows)


def trained(model, method):
    """The model with gates that are not what they start from."""
    with attach_training(model, method) as training, torch.no_grad():
        training.parameters.beta.data = BETA.clone()
    return model


def streamed(model, method, ids, chunk=11):
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=16)
        return torch.cat([model(p, past_key_values=cache).logits for p in ids.split(chunk, dim=1)], 1)


def check_stream(model, method=None):
    """A stream of two rows gives the reference's logits."""
    method = method or everlong.Infini(segment=SEGMENT, local="segment")
    torch.testing.assert_close(
        streamed(trained(model, method), method, IDS), naive(model, method, IDS), atol=ANGLES, rtol=0
    )


def check_gradients(model):
    """The gradient of a loss in the last segment is the reference's for every token."""
    method = everlong.Infini(segment=SEGMENT, local="segment")
    trained(model, method)
    found = []
    for forward in (lambda: naive(model, method, IDS), None):
        model.zero_grad()
        with contextlib.nullcontext() if forward else attach_training(model, method):
            logits = forward() if forward else model(IDS).logits
            logits[:, -1].square().sum().backward()
        found.append(model.model.embed_tokens.weight.grad.clone())
    scale = found[0].abs().max()
    torch.testing.assert_close(found[1], found[0], atol=ANGLES * scale, rtol=0)
    assert found[0][IDS[0, :SEGMENT]].abs().max() > 1e-3


def check_long_sums(model):
    """After 1,500 segments of the same few tokens, the sums are those of float64."""
    method = everlong.Infini(segment=2, local="segment")
    trained(model, method)
    ids = IDS[:1, :2].repeat(1, 1500)
    model.float()
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=16)
        for piece in ids.split(100, dim=1):
            model(piece, past_key_values=cache)
        z = cache.stream.memory.states[0]["z"].double()
        one = handle.new_cache(chunk=16)
        model(ids[:, :2], past_key_values=one)
        per_segment = one.stream.memory.states[0]["z"].double()
    torch.testing.assert_close(z, 1500 * per_segment, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("update", "local"), KINDS)
def test_a_stream_gives_what_the_equations_give(model, update, local):
    check_stream(model, everlong.Infini(segment=SEGMENT, update=update, local=local))


def test_gradients_are_those_of_the_equations(model):
    check_gradients(model)


def test_sums_do_not_stall(model):
    check_long_sums(model)


def wrapped(change):
    """A stand-in for a function whose result `change` spoils."""
    return lambda function: lambda *args, **more: change(function(*args, **more))


def detached(pair):
    return tuple(x.detach() for x in pair)


def halved(pair):
    return tuple(x.bfloat16().to(x.dtype) for x in pair)


class OneForAll(dict):
    """States of layers, all of which are that of layer 0."""

    def get(self, key, default=None):
        return super().get(0, default)

    def __ior__(self, other):
        self.update({0: list(other.values())[-1]})
        return self


def one_for_all(make):
    def made(self, *args):
        make(self, *args)
        self.states = OneForAll()

    return made


BUGS = {
    "memory detached every segment": (check_gradients, ops, "fold_all", wrapped(detached)),
    "one memory for all layers": (check_stream, recurrent.RecurrentMemory, "__init__", one_for_all),
    "rotary positions in the memory": (check_stream, recurrent.Turns, "back", lambda _: lambda self, x, *a, **k: x),
    "heads and positions mixed": (
        check_stream,
        streaming,
        "recall",
        wrapped(lambda x: x.transpose(-3, -2).reshape(x.shape)),
    ),
    "rows mixed": (check_stream, streaming, "fold_all", wrapped(lambda pair: tuple(x.flip(0) for x in pair))),
    "gate inverted": (check_stream, torch.Tensor, "sigmoid", lambda sigmoid: lambda x: 1 - sigmoid(x)),
    "memory in half precision": (check_long_sums, streaming, "fold_all", wrapped(halved)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_known_bug_is_caught(model, monkeypatch, bug):
    check, where, name, spoil = BUGS[bug]
    if bug == "gate inverted":  # only in what streams; the reference keeps its own
        expected = naive(model, everlong.Infini(segment=SEGMENT, local="segment"), IDS)
        monkeypatch.setattr("tests.methods.test_infini.naive", lambda *_: expected)
    monkeypatch.setattr(where, name, spoil(getattr(where, name)))
    with pytest.raises(AssertionError):
        check(model)


def test_what_overwriting_does():
    """The same key with another value: linear reads the mean of both, delta half of the new one; so does a stationary
    stream in the end, for M grows by what is missing and z by as much each time."""
    key, old, new = torch.randn(1, 1, 1, 4), torch.full((1, 1, 1, 3), 1.0), torch.full((1, 1, 1, 3), 2.0)
    for update, expected in (("linear", 1.5), ("delta", 1.0)):
        M, z = torch.zeros(1, 1, 4, 3), torch.zeros(1, 1, 4)
        for value in (old, new):
            M, z = fold(key, value, M, z, update)
        torch.testing.assert_close(recall(key, M, z), torch.full((1, 1, 1, 3), expected))
    for _ in range(400):
        M, z = fold(key, new, M, z, "delta")
    torch.testing.assert_close(recall(key, M, z), new / 2, rtol=1e-2, atol=0)


def test_the_controls(model):
    method = everlong.Infini(segment=SEGMENT, local="segment")
    trained(model, method)
    on = streamed(model, method, IDS)
    off = streamed(model, everlong.Infini(segment=SEGMENT, local="segment", memory="off"), IDS)
    zeroed = streamed(model, everlong.Infini(segment=SEGMENT, local="segment", memory="zeroed"), IDS)
    for other in (off, zeroed):
        torch.testing.assert_close(other[:, :SEGMENT], on[:, :SEGMENT])
        assert (other[:, SEGMENT:] - on[:, SEGMENT:]).abs().max() > 0.1
    closed = naive(model, method, IDS, betas=torch.full_like(BETA, -60))
    torch.testing.assert_close(off, closed, atol=ANGLES, rtol=0)


@pytest.mark.parametrize(("update", "local"), KINDS)
def test_the_reset_control_forgets_what_lies_before_a_multiple_of_its_tokens(tiny_llama, update, local):
    """One layer: from `last` on the window and what is folded since token 16 hold nothing of the tokens before it."""
    model = tiny_llama(num_hidden_layers=1, initializer_range=0.3).double()
    fields = {"segment": SEGMENT, "update": update, "local": local, "beta": 0.0}
    changed = IDS.clone()
    changed[:, :16] = 5
    last = 16 + SEGMENT + (SEGMENT if local == "xl" else 0)
    for memory, same in (("reset:16", True), ("on", False)):
        method = everlong.Infini(**fields, memory=memory)
        one, other = (streamed(model, method, ids)[:, last:] for ids in (IDS, changed))
        assert torch.allclose(one, other, atol=1e-9) is same


def test_the_report_says_what_is_compressed_and_the_state_is_constant(model):
    method = everlong.Infini(segment=SEGMENT)
    model.float()
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache, sizes = handle.new_cache(chunk=16), set()
        for n in range(1, 40):
            model(IDS[:1, :13], past_key_values=cache)
            report = cache.report()
            sizes.add(report.bytes["device"])
            assert report.seen_tokens == 13 * n == report.window_tokens + report.compressed_tokens
            assert report.dropped_tokens == report.stored_tokens == 0
            assert report.compressed_tokens % SEGMENT == 0
        assert len(sizes) == 1
        assert sizes.pop() == cache.stream.planned_bytes()
        states = sum(x.nbytes for state in cache.stream.memory.states.values() for x in state.values())
        D = 8
        assert states == 3 * 2 * D * (D + 1) * 4  # layers, kv heads, D x (D + 1) numbers of 4 bytes
        assert "compressed" in str(cache.report())


def test_a_crop_across_a_folded_segment_is_refused_and_a_fork_is_not(model):
    method = everlong.Infini(segment=SEGMENT, local="segment")
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=64)
        model(IDS[:1, :20], past_key_values=cache)
        cache.crop(-3)
        assert cache.get_seq_length() == 17
        with pytest.raises(everlong.EverlongError, match="folded into the memory"):
            cache.crop(-3)
        twin = cache.fork()
        expected = model(IDS[:1, 17:40], past_key_values=cache).logits
        torch.testing.assert_close(model(IDS[:1, 17:40], past_key_values=twin).logits, expected)
