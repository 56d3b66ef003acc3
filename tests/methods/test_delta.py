"""The delta rule through a whole model, one token after the other in float64, against streams and training."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong.errors import CapabilityError, ConfigError
from everlong.hooks import patch, training
from everlong.hooks.training import attach_training
from everlong.methods.fields import reset_tokens
from everlong.methods.recurrent.training import Carried
from everlong.models.internals import with_added
from tests.ops import delta_literal

SEGMENT = 8
IDS = torch.randint(97, (2, 37), generator=torch.Generator().manual_seed(1))
ANGLES = 1e-5
"""The model computes its angles in float32, whatever its type: they are undone to within this."""

KINDS = [
    everlong.Delta(segment=SEGMENT),
    everlong.Delta(segment=SEGMENT, degree=1, decay=True, local="segment", look_back=3),
    everlong.Delta(segment=SEGMENT, projections="none", look_back=4, decay=True),
]
NAMED = {"ids": ["own", "own, degree 1, decay", "none, decay"]}


@pytest.fixture
def model(tiny_llama):
    """Two layers in float64, two query heads for each kv head."""
    return tiny_llama(initializer_range=0.3, max_position_embeddings=64).double()


def trained(model, method):
    """The model with a memory that says something."""
    draw = torch.Generator().manual_seed(4)
    with attach_training(model, method) as held, torch.no_grad():
        for p in held.parameters.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return model


def window_attention(q, k, v, method):
    """[H, T, D]: each token sees its segment, and with "xl" the one before."""
    T = q.shape[1]
    t = torch.arange(T)
    first = (t // SEGMENT * SEGMENT - method.back).clamp_min(0)
    seen = (t[None] <= t[:, None]) & (t[None] >= first[:, None])
    scores = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def literal(model, method, row, write=None):
    """Logits of one row of ids by the rule."""
    c = model.config
    H, G, D = c.num_attention_heads, c.num_key_value_heads, c.hidden_size // c.num_attention_heads
    x = model.model.embed_tokens(row)
    angles = torch.arange(len(row), dtype=torch.float64)[:, None] * model.model.rotary_emb.inv_freq.double()
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    own = method.projections == "own"
    for n, layer in enumerate(model.model.layers):
        given = {name: p.double() for name, p in model.model.everlong_memory(n).items()}
        h, attention = layer.input_layernorm(x), layer.self_attn
        raw = [attention.q_proj(h), attention.k_proj(h), attention.v_proj(h)]
        q, k, v = (y.unflatten(1, (-1, D)).transpose(0, 1) for y in raw)
        q, k = (y * cos + torch.cat([-y[..., D // 2 :], y[..., : D // 2]], -1) * sin for y in (q, k))
        local = window_attention(q, *(y.repeat_interleave(H // G, 0) for y in (k, v)), method)
        far = delta_literal.read(h, *raw, given, H, H if own else G, method.degree, write, reset_tokens(method.memory))
        if not own:
            local = local + given["s"][:, None, None] * far
        x = x + attention.o_proj(local.transpose(0, 1).flatten(1))
        if own:
            x = x + far.transpose(0, 1).flatten(1) @ given["W_m"].T
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x))


def streamed(model, method, ids, chunk=11, mask=None):
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=16)
        parts = zip(
            ids.split(chunk, 1), (mask if mask is not None else torch.ones_like(ids)).split(chunk, 1), strict=True
        )
        seen, found = [], []
        for part, part_mask in parts:
            seen.append(part_mask)
            given = {} if mask is None else {"attention_mask": torch.cat(seen, 1)}
            found.append(model(part, past_key_values=cache, **given).logits)
        return torch.cat(found, 1)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=ANGLES, rtol=0)


@pytest.mark.parametrize("method", KINDS, **NAMED)
def test_a_stream_gives_what_the_rule_gives(model, method):
    trained(model, method)
    with torch.no_grad():
        expected = torch.stack([literal(model, method, row) for row in IDS])
    for chunk in (1, 11, 37):
        close(streamed(model, method, IDS, chunk), expected)


@pytest.mark.parametrize("method", KINDS, **NAMED)
def test_rows_with_padding_are_read_as_if_alone(model, method):
    trained(model, method)
    ids = torch.stack([torch.cat([IDS.new_zeros(5), IDS[0, :32]]), IDS[1]])
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        found = streamed(model, method, ids, 9, mask)
        close(found[0, 5:], literal(model, method, IDS[0, :32]))
        close(found[1], literal(model, method, IDS[1]))


@pytest.mark.parametrize("method", KINDS, **NAMED)
def test_training_gives_the_logits_and_gradients_of_the_rule(model, method):
    trained(model, method)
    found = []
    for slow in (True, False):
        model.zero_grad()
        if slow:
            logits = torch.stack([literal(model, method, row) for row in IDS])
            logits[:, -1].square().sum().backward()
        else:
            with attach_training(model, method) as held:
                held.parameters.requires_grad_(True)
                logits = model(IDS).logits
                logits[:, -1].square().sum().backward()
        found.append((logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    (expected, wanted), (got, gradients) = found
    close(got, expected)
    for name, g in wanted.items():
        torch.testing.assert_close(gradients[name], g, atol=ANGLES * float(g.abs().max()), rtol=0, msg=name)


@pytest.mark.parametrize("method", KINDS, **NAMED)
def test_documents_in_a_row_and_pieces_of_one(model, method):
    trained(model, method)
    lengths = [13, 3, 16]
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    with attach_training(model, method), torch.no_grad():
        packed = model(IDS[:1, :32], documents=document).logits[0].split(lengths)
        carried = Carried()
        pieces = [model(part, carried=carried).logits[0] for part in IDS[:1, :32].split([8, 16, 8], 1)]
    with torch.no_grad():
        for found, part in zip(packed, IDS[0, :32].split(lengths), strict=True):
            close(found, literal(model, method, part))
        close(torch.cat(pieces), literal(model, method, IDS[0, :32]))


def test_tokens_that_stand_there_many_times(model):
    method = KINDS[0]
    trained(model, method)
    write = torch.linspace(0, 20, 37, dtype=torch.float64)
    with attach_training(model, method), torch.no_grad():
        close(model(IDS[:1], write_weight=write[None]).logits[0], literal(model, method, IDS[0], write))


def test_repeats_and_decay_are_refused_together(model):
    with attach_training(model, KINDS[1]), pytest.raises(CapabilityError, match="not handled with decay=true"):
        model(IDS, write_weight=torch.full(IDS.shape, 2.0))


@pytest.mark.parametrize("every", [8, 24])
def test_the_reset_control_is_the_rule_with_an_emptied_memory(model, every):
    trained(model, KINDS[0])
    method = everlong.Delta(segment=SEGMENT, memory=f"reset:{every}")
    with torch.no_grad():
        expected = literal(model, method, IDS[0])
        for chunk in (1, 11, 37):
            close(streamed(model, method, IDS[:1], chunk)[0], expected)
    assert (expected - streamed(model, KINDS[0], IDS[:1])[0]).abs().max() > 0.1


@pytest.mark.parametrize("method", KINDS, **NAMED)
def test_an_untrained_memory_and_the_other_controls_leave_the_window_as_it_is(model, method):
    window = everlong.Infini(segment=SEGMENT, local=method.local, memory="off")
    expected = streamed(model, window, IDS)
    assert torch.equal(streamed(model, method, IDS), expected)
    trained(model, method)
    assert (streamed(model, method, IDS) - expected).abs().max() > 0.1
    for control in ("off", "zeroed"):
        fields = method.as_dict() | {"memory": control}
        assert torch.equal(streamed(model, everlong.Delta(**fields), IDS), streamed_without(model, window))


def streamed_without(model, window):
    """The window's logits of a model whose memory is taken off meanwhile."""
    memory = model.model._modules.pop("everlong_memory")
    try:
        return streamed(model, window, IDS)
    finally:
        model.model.add_module("everlong_memory", memory)


def test_the_report_says_what_is_compressed_and_the_state_is_constant(model):
    model.float()
    with everlong.attach(model, KINDS[0]) as handle, torch.no_grad():
        cache, sizes = handle.new_cache(chunk=16), set()
        for n in range(1, 30):
            model(IDS[:1, :13], past_key_values=cache)
            report = cache.report()
            sizes.add(report.bytes["device"])
            assert report.seen_tokens == 13 * n == report.window_tokens + report.compressed_tokens
            assert report.dropped_tokens == report.stored_tokens == 0
        assert sizes == {cache.stream.planned_bytes()}
        M = cache.stream.memory.states[0]["M"]
        assert M.shape == (1, 4, 8 * 5, 8)
        assert M.dtype == torch.float32


def test_the_newest_tokens_may_be_taken_back_until_their_segment_is_full(model):
    trained(model, KINDS[0])
    with everlong.attach(model, KINDS[0]) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=64)
        model(IDS[:1, :23], past_key_values=cache)
        cache.crop(-6)
        got = model(IDS[:1, 17:30], past_key_values=cache).logits
        close(got, streamed(model, KINDS[0], IDS[:1])[:, 17:30])
        with pytest.raises(CapabilityError, match="folded into the memory"):
            cache.crop(-10)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"degree": 3}, "degree=3: expected 1 or 2"),
        ({"look_back": 1}, "look_back=1: must be at least 2"),
        ({"memory": "reset"}, "memory='reset': expected on, off, zeroed or reset:N"),
        ({"memory": "reset:0"}, "expected on, off, zeroed or reset:N"),
        ({"memory": "reset:300"}, "memory=reset:300: must be a multiple of segment=128; use reset:256"),
        ({"start": float("nan")}, "start=nan: must be finite"),
        ({"segment": 0}, "segment=0: must be at least 1"),
    ],
)
def test_wrong_fields_are_said(fields, said):
    with pytest.raises(ConfigError, match=said):
        everlong.Delta(**fields)


def test_models_that_it_cannot_serve_are_refused(tiny_llama):
    odd = tiny_llama(hidden_size=32, head_dim=6, num_attention_heads=4)
    everlong.attach(odd, everlong.Delta()).new_cache().close()
    controls = everlong.Delta(memory="reset:256")
    with pytest.raises(ConfigError, match="a control for reading; training needs memory=on"):
        attach_training(odd, controls)
    assert everlong.Delta(segment=64).controls() == ["on", "off", "zeroed", "reset:128"]


def test_an_answer_that_no_module_takes_is_an_error_and_not_lost(model, monkeypatch):
    trained(model, KINDS[0])
    monkeypatch.setattr(patch, "add_to_output", lambda module, args, output: output)
    with pytest.raises(CapabilityError, match="layers 0, 1: this model's attention is not a module"):
        streamed(model, KINDS[0], IDS)
    monkeypatch.undo()
    monkeypatch.setattr(training, "_add", lambda *_: None)
    with pytest.raises(CapabilityError, match="layers 0, 1: this model's attention"):
        attach_training(model, KINDS[0])


def test_an_answer_of_another_width_is_refused():
    with pytest.raises(CapabilityError, match=r"gives hidden states \[1, 2, 3\], and its memory adds \[1, 2, 4\]"):
        with_added((torch.zeros(1, 2, 3), None), torch.zeros(1, 2, 4))
    assert with_added(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).sum() == 6
