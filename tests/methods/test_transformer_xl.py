"""Transformer-XL through a whole model: scores of the faithful form, what gradients reach, what is kept and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Qwen3Config, Qwen3ForCausalLM

import everlong
from everlong.errors import CapabilityError, ConfigError
from everlong.hooks.adapter import write_memory
from everlong.hooks.training import attach_training
from everlong.methods import make_method
from everlong.ops.relative import relative_attention_naive, sinusoids
from tests.models.tiny import save_folder

IDS = torch.randint(97, (2, 45), generator=torch.Generator().manual_seed(3))


def xl(**fields):
    return everlong.TransformerXL(**{"segment": 8, **fields})


def faithful(**fields):
    return xl(variant="faithful", **fields)


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def trained(model, method):
    """The model with parameters of `method` that differ from each other."""
    with attach_training(model, method) as training, torch.no_grad():
        for n, p in enumerate(training.parameters.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(n)) * 0.5)
    return model


def streamed(model, method, ids, chunk=7, **more):
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=16)
        parts = [model(p, past_key_values=cache, **more if n == 0 else {}) for n, p in enumerate(ids.split(chunk, 1))]
        return torch.cat([part.logits for part in parts], 1)


def reference(model, ids, first, clamp=None):
    """Logits in float64, token by token: token i sees the tokens `first[i]` .. i, by the paper's scores."""
    model, T = model.double(), ids.shape[1]
    memory, decoder = model.model.everlong_memory, model.model
    hidden = decoder.embed_tokens(ids)
    R = sinusoids(torch.arange(T, dtype=torch.float64), hidden.shape[2], clamp)
    for n, layer in enumerate(decoder.layers):
        x, own = layer.input_layernorm(hidden), layer.self_attn
        q, k, v = (p(x).unflatten(2, (-1, own.head_dim)).transpose(1, 2) for p in (own.q_proj, own.k_proj, own.v_proj))
        r = (R @ memory.W_R[n].T).unflatten(1, (-1, own.head_dim))
        out = relative_attention_naive(q, k, v, r, memory.u[0], memory.w[0], first[None], own.scaling)
        hidden = hidden + own.o_proj(out.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits = model.lm_head(decoder.norm(hidden)).float()
    model.float()
    return logits


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({}, lambda i: i - i % 8 - 8),
        ({"mem_len": 13, "clamp_len": 9}, lambda i: i - i % 8 - 13),
        ({"mem_len": 3}, lambda i: i - i % 8 - 3),
        ({"mem_len": 11, "same_length": True}, lambda i: i - 10),
        ({"memory": "off", "mem_len": 30}, lambda i: i - i % 8),
    ],
)
def test_faithful_scores_are_the_papers(model, fields, first):
    """Read as a stream, and at once as in training."""
    method, ids = faithful(**fields), IDS[:, :30]
    trained(model, method)
    got = streamed(model, method, ids)
    with attach_training(model, method), torch.no_grad():
        at_once = model(ids).logits
    with torch.no_grad():
        expected = reference(model, ids, first(torch.arange(30)).clamp_min(0), fields.get("clamp_len"))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(at_once, expected, atol=1e-4, rtol=0)


def test_the_models_rotation_is_undone(tiny_llama):
    logits = []
    for theta in (10000.0, 20.0):
        rope = {"rope_type": "default", "rope_theta": theta}
        model = trained(tiny_llama(initializer_range=0.3, rope_parameters=rope), faithful())
        logits.append(streamed(model, faithful(), IDS))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", [faithful(mem_len=13), faithful(mem_len=4, same_length=True), xl(mem_len=13)])
def test_rows_of_unequal_length_are_read_as_if_alone(model, method):
    trained(model, method)
    for padding in (3, 9, 20):
        mask = torch.ones(2, 24, dtype=torch.long)
        mask[0, :padding] = 0
        got = streamed(model, method, IDS[:, :24], chunk=24, attention_mask=mask)
        alone = streamed(model, method, IDS[:1, padding:24])
        torch.testing.assert_close(got[:1, padding:], alone, atol=1e-4, rtol=0)
        torch.testing.assert_close(got[1:], streamed(model, method, IDS[1:, :24]), atol=1e-4, rtol=0)


def test_no_gradient_passes_through_the_past(model):
    """A loss in segment 3 reaches the tokens of segment 3 only, whatever lies between."""
    for method in (xl(), faithful(), faithful(mem_len=20)):
        with attach_training(model, method):
            embedded = model.get_input_embeddings()(IDS[:, :32]).detach().requires_grad_()
            loss = model(inputs_embeds=embedded).logits[:, 16:24].square().mean()
            grad = torch.autograd.grad(loss, embedded)[0].abs().amax((0, 2))
        model.model._modules.pop("everlong_memory")
        assert grad[16:24].min() > 0
        assert not grad[:16].any()
        assert not grad[24:].any()


@pytest.mark.parametrize(("method", "sees_memory"), [(faithful(), True), (xl(), False)])
def test_the_projections_of_the_memory_learn_where_it_is_faithful(tiny_llama, method, sees_memory):
    """For the first token of a segment: with its own key alone the gradient of W_k would be of rank 1 for each head."""
    model = tiny_llama(num_hidden_layers=1, initializer_range=0.3)
    with attach_training(model, method) as training:
        model(IDS[:1, :32]).logits[:, 16].square().sum().backward()
        weight = model.model.layers[0].self_attn.k_proj.weight.grad
        ranks = [int(torch.linalg.matrix_rank(head)) for head in weight.view(2, 8, 32)]
        assert all(rank > 1 if sees_memory else rank <= 1 for rank in ranks), ranks
        for name in training.parameters.names:
            assert getattr(training.parameters, name).grad.abs().max() > 0, name


@pytest.mark.parametrize("method", [xl(mem_len=13), faithful(mem_len=13)])
def test_half_types(model, method):
    """Where training computes in bfloat16, and in a bfloat16 model."""
    trained(model, method)
    expected = streamed(model, method, IDS)
    with attach_training(model, method) as training, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            assert (model(IDS).logits - expected).norm() < 0.05 * expected.norm()
            training.use(replace(method, mem_len=14))
            training.use(method)
    for name, weight in model.named_parameters():
        if "everlong_memory" not in name:
            weight.data = weight.data.bfloat16()
    got = streamed(model, method, IDS)
    assert got.dtype == torch.bfloat16
    assert (got - expected).norm() < 0.1 * expected.norm()


def test_same_length_is_a_sliding_window(model):
    """Of mem_len tokens, the token itself included; the method window is another way to it."""
    method = xl(mem_len=11, same_length=True)
    got, expected = (streamed(model, m, IDS) for m in (method, everlong.Window(window=11)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_cache_sees_what_infini_sees_beside_its_memory(model):
    got, expected = (streamed(model, m, IDS) for m in (xl(), everlong.Infini(segment=8, memory="off")))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [xl(mem_len=13), faithful(mem_len=13)])
def test_bytes_are_those_of_the_window_and_the_rest_is_dropped(model, method):
    """Two layers, two kv heads of 8: keys and values of mem_len + segment - 1 tokens, and room for a chunk."""
    trained(model, method)
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache, found = handle.new_cache(chunk=5), []
        for piece in IDS[:1].split(5, 1):
            model(piece, past_key_values=cache)
            found.append(cache.report().bytes["device"])
        assert set(found) == {cache.stream.planned_bytes()} == {2 * (13 + 8 - 1 + 5) * 2 * 2 * 8 * 4}
        report = cache.report()
    assert (report.seen_tokens, report.compressed_tokens) == (45, 0)
    assert (report.window_tokens, report.dropped_tokens) == (5 + 13, 45 - 5 - 13)


def test_a_folder_names_the_method_where_nothing_but_the_model_was_trained(tmp_path):
    base, method = save_folder(tmp_path / "base"), xl(mem_len=5)
    loaded = everlong.load(base)
    with attach_training(loaded.model, method):
        pass
    write_memory(loaded.model, method, tmp_path / "memory")
    again = everlong.load(base, memory=tmp_path / "memory")
    assert again.method == method
    torch.testing.assert_close(streamed(again.model, method, IDS), streamed(loaded.model, method, IDS))


def neox():
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip


def qwen():
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    return model.eval()


@pytest.mark.parametrize(
    ("made", "message"), [(neox, "GPTNeoXAttention: has no k_proj"), (qwen, "is not k_proj of its input alone")]
)
def test_faithful_refuses_models_whose_keys_it_cannot_project(made, message):
    model = made()
    with pytest.raises(CapabilityError, match=message) as error:
        attach_training(model, faithful())
    assert "\n" not in str(error.value)
    decoder = model.get_decoder()
    assert "forward" not in decoder.__dict__
    assert not any(m._forward_pre_hooks for m in decoder.modules())
    with attach_training(model, xl()), torch.no_grad():
        assert model(IDS).logits.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: everlong.attach(m, faithful()), "reads only a model that was trained with it"),
        (lambda m: streamed(trained(m, xl()), faithful(), IDS), "holds no parameters, and these options need {'u'"),
        (lambda m: streamed(trained(m, faithful()), xl(), IDS), "and these options need none"),
        (lambda m: trained(trained(m, faithful()), xl()), "and these options need none"),
        (lambda m: xl(clamp_len=4), "clamp_len=4: has no effect with variant=cache"),
        (lambda m: xl(mem_len=0), "mem_len=0: must be at least 1"),
        (lambda m: faithful(clamp_len=0), "clamp_len=0: must be at least 1"),
        (lambda m: make_method("transformer_xl", {"variant": "paper"}), "variant=paper: expected"),
        (lambda m: make_method("transformer_xl", {"memory": "zeroed"}), "memory=zeroed: expected"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(model, call, message):
    with pytest.raises((CapabilityError, ConfigError), match=message) as error:
        call(model)
    assert "\n" not in str(error.value)
    assert "forward" not in model.model.__dict__


@pytest.mark.parametrize("method", [xl(), faithful()])
def test_weights_of_writing_have_no_meaning_here(model, method):
    with attach_training(model, method):
        model(IDS, write_weight=torch.ones(2, 45))
        with pytest.raises(CapabilityError, match="transformer_xl keeps every token alike"):
            model(IDS, write_weight=torch.full((2, 45), 2.0))


def test_a_longer_memory_may_be_read_than_was_trained(model):
    """mem_len is not a parameter: the paper evaluates with more."""
    trained(model, faithful())
    longer = streamed(model, replace(faithful(), mem_len=37), IDS[:, :37])
    with torch.no_grad():
        expected = reference(model, IDS[:, :37], torch.zeros(37, dtype=torch.long))
    torch.testing.assert_close(longer, expected, atol=1e-4, rtol=0)
