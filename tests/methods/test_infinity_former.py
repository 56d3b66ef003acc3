"""The infinity-former through a whole model: its memory against the paper's formulas, and what is special to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

import everlong
from everlong.errors import CapabilityError, ConfigError
from everlong.hooks.training import attach_training
from everlong.methods import make_method
from everlong.methods.infinity_former.signal import Signal
from everlong.methods.recurrent.training import Carried

IDS = torch.randint(97, (2, 75), generator=torch.Generator().manual_seed(3))


def infinity(**fields):
    return everlong.InfinityFormer(**{"segment": 8, "basis": 16, "points": 20, **fields})


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


@pytest.fixture
def one_layer(tiny_llama):
    return tiny_llama(num_hidden_layers=1, max_position_embeddings=64, initializer_range=0.3)


def trained(model, method, spread=0.5):
    """The model with parameters that were moved from where they start."""
    with attach_training(model, method) as training, torch.no_grad():
        for n, p in enumerate(training.parameters.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(n)) * spread)
    return model


def read(model, cache, ids, chunk=7, **more):
    with torch.no_grad():
        parts = [model(p, past_key_values=cache, **more if n == 0 else {}) for n, p in enumerate(ids.split(chunk, 1))]
    return torch.cat([part.logits for part in parts], 1)


def streamed(model, method, ids, chunk=7, **more):
    with everlong.attach(model, method) as handle:
        return read(model, handle.new_cache(chunk=16), ids, chunk, **more)


def test_an_untrained_memory_leaves_the_window_as_it_was(model):
    for local in ("segment", "xl"):
        got, expected = (streamed(model, infinity(local=local, memory=m), IDS) for m in ("on", "off"))
        torch.testing.assert_close(got, expected, atol=0, rtol=0)


@pytest.mark.parametrize(("local", "first"), [("segment", 8), ("xl", 16)])
def test_a_trained_memory_is_read_from_the_first_token_on_that_has_something_behind_it(model, local, first):
    trained(model, infinity())
    on, off = (streamed(model, infinity(local=local, memory=m), IDS) for m in ("on", "off"))
    assert torch.equal(on[:, :first], off[:, :first])
    assert (on - off)[:, first:].abs().amax(-1).min() > 1e-3


def contributions(model, method, ids):
    """What the memory adds to the heads' outputs of the only layer, [T, H * E]."""
    found = []
    for memory in ("on", "off"):
        with everlong.attach(model, infinity(**method, memory=memory)) as handle:
            seen, project = [], model.model.layers[0].self_attn.o_proj
            hook = project.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            read(model, handle.new_cache(chunk=16), ids)
            hook.remove()
        found.append(torch.cat(seen, 1)[0])
    return found[0] - found[1]


def psi(basis, t):
    """[.., N]: Gaussians of the widths .005 and .01 at each centre."""
    centres = torch.linspace(0, 1, basis // 2, dtype=torch.float64).repeat_interleave(2)
    widths = torch.tensor([0.005, 0.01], dtype=torch.float64).repeat(basis // 2)
    return Normal(centres, widths).log_prob(t[..., None]).exp()


def fitted(basis, points, x, ridge):
    """Ridge regression of the values x at points, and of zeros beyond [0, 1] as far apart as even points."""
    beyond = (torch.arange(len(points) // 2, dtype=torch.float64) + 0.5) / len(points)
    F = psi(basis, torch.cat([points, -beyond, 1 + beyond]))
    X = torch.cat([x, x.new_zeros(2 * len(beyond), x.shape[1])])
    return torch.linalg.solve(F.T @ F + ridge * torch.eye(basis, dtype=torch.float64), F.T @ X)


def reference(model, ids, basis, points, tau, ridge, sticky):
    """The same in float64, segment by segment, with densities summed up in small steps: [T, H * E]."""
    memory, layer = model.model.everlong_memory, model.model.layers[0]
    p = {name: getattr(memory, name)[0].double() for name in memory.names}
    with torch.no_grad():
        x = layer.input_layernorm(model.model.embed_tokens(ids))
        q = layer.self_attn.q_proj(x)[0].unflatten(-1, (4, 8)).double()
    padded = torch.nn.functional.pad(x[0].double().unfold(0, 8, 8).transpose(1, 2), (0, 0, 1, 1))
    gates = torch.einsum("slcw,vwc->slv", padded.unfold(1, 3, 1).transpose(2, 3), p["conv_weight"]) + p["conv_bias"]
    signal = padded[:, 1:-1] * gates.sigmoid()
    b, found = fitted(basis, (torch.arange(8).double() + 0.5) / 8, signal[0], ridge), [x.new_zeros(8, 32).double()]
    for n in range(1, len(signal)):
        k, v = ((b @ p[name].T).unflatten(1, (2, 8)).repeat_interleave(2, 1) for name in ("W_K", "W_V"))
        s = torch.einsum("thd,nhd->thn", q[8 * n : 8 * n + 8], k) / math.sqrt(8)
        density = Normal((s @ p["w_mu"]).sigmoid(), (s @ p["w_var"]).exp().log1p().clamp_min(1e-4).sqrt())
        far = torch.linspace(-8, 9, 40001, dtype=torch.float64)
        weight = density.log_prob(far[:, None, None]).exp() * (far[1] - far[0])
        read = torch.einsum("fth,fn,nhe->the", weight, psi(basis, far), v)
        found.append(read.flatten(1) @ p["W_O"].T)
        at = (torch.arange(points).double() + 0.5) / points
        if sticky:
            bins = torch.stack([density.cdf(torch.tensor(i / 128)) for i in range(129)]).diff(dim=0).sum((1, 2))
            bins = (bins / bins.sum() * 1024).round()
            upto = torch.cat([bins.new_zeros(1), bins.cumsum(0) / bins.sum()])
            which = (torch.searchsorted(upto, at, right=True) - 1).clamp_max(127)
            at = (which + (at - upto[which]) * bins.sum() / bins[which]) / 128
        squeezed = tau * (torch.arange(points).double() + 0.5) / points
        new = tau + (1 - tau) * (torch.arange(8).double() + 0.5) / 8
        old = psi(basis, at) @ b
        b = fitted(basis, torch.cat([squeezed, new]), torch.cat([old, signal[n]]), ridge)
    return torch.cat(found)


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("options", [{}, {"tau": 0.6, "points": 65, "ridge": 2.0, "basis": 32}])
def test_the_memory_is_the_papers(one_layer, sticky, options):
    fields = {"basis": 16, "points": 20, "tau": 0.5, "ridge": 0.5} | options
    trained(one_layer, infinity(**fields))
    got = contributions(one_layer, fields | {"sticky": sticky}, IDS[:1, :40])
    with torch.no_grad():
        expected = reference(one_layer, IDS[:1, :40], **fields, sticky=sticky)
    assert expected[8:].abs().amax(1).min() > 0.01
    torch.testing.assert_close(got.double(), expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


def test_sticky_points_change_what_is_kept(model):
    """From the first update on: the second segment has read, the third is read with what it crowded on."""
    trained(model, infinity())
    sticky, even = (streamed(model, infinity(sticky=s), IDS) for s in (True, False))
    assert torch.equal(sticky[:, :16], even[:, :16])
    assert (sticky - even)[:, 16:].abs().amax(-1).min() > 1e-4


def test_the_past_blurs_by_tau(one_layer):
    """How much another first segment changes what is read 8 updates later, relative to how much it did at once."""
    trained(one_layer, infinity(basis=64, points=64), spread=0.1)
    other = IDS[:1].clone()
    other[:, :8] = (other[:, :8] + 7) % 97
    left = {}
    for tau in (0.5, 0.75):
        fields = {"tau": tau, "sticky": False, "basis": 64, "points": 64}
        rows = [contributions(one_layer, fields, ids) for ids in (IDS[:1], other)]
        change = (rows[0] - rows[1]).norm(dim=1)
        left[tau] = float(change[64:72].mean() / change[8:16].mean())
    assert left[0.5] < 0.05 < left[0.75], left


@pytest.mark.parametrize("local", ["segment", "xl"])
def test_rows_of_unequal_length_are_read_as_if_alone(model, local):
    method = infinity(local=local)
    trained(model, method)
    for padding in (3, 9, 20):
        mask = torch.ones(2, 40, dtype=torch.long)
        mask[0, :padding] = 0
        got = streamed(model, method, IDS[:, :40], chunk=40, attention_mask=mask)
        alone = streamed(model, method, IDS[:1, padding:40])
        torch.testing.assert_close(got[:1, padding:], alone, atol=1e-4, rtol=0)
        torch.testing.assert_close(got[1:], streamed(model, method, IDS[1:, :40]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("local", ["segment", "xl"])
def test_tokens_of_the_open_segment_can_be_taken_back(model, local):
    method = infinity(local=local)
    trained(model, method)
    with everlong.attach(model, method) as handle:
        cache = handle.new_cache(chunk=64)
        read(model, cache, IDS[:, :38])
        cache.crop(-5)
        got = read(model, cache, IDS[:, 40:75])
        expected = read(model, handle.new_cache(chunk=16), torch.cat([IDS[:, :33], IDS[:, 40:75]], 1))[:, 33:]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        with pytest.raises(CapabilityError, match="was folded into the memory"):
            cache.crop(-5)


@pytest.mark.parametrize("method", [infinity(), infinity(local="xl", sticky=False)])
def test_the_state_is_constant_to_the_byte_and_everything_is_compressed(model, method):
    """B, K and V, of the tokens in the window what entered the layer, of the open segment mu and var."""
    with everlong.attach(model, method) as handle:
        cache, found = handle.new_cache(chunk=5), set()
        for piece in IDS[:1].split(5, 1):
            read(model, cache, piece)
            found.add(cache.report().bytes["device"])
        R = 8 + method.back
        state = 16 * 32 + 2 * 2 * 16 * 8 + R * 32 + (2 * 4 * 8 if method.sticky else 0)
        window = (R - 1 + 5) * 2 * 2 * 8
        assert found == {cache.stream.planned_bytes()} == {2 * 4 * (state + window)}
        report = cache.report()
    assert (report.dropped_tokens, report.compressed_tokens) == (0, 75 - 3 - method.back)


def test_inputs_are_kept_only_while_a_cache_needs_them(model):
    modules = [layer.self_attn for layer in model.model.layers]
    trained(model, infinity())
    with everlong.attach(model, infinity(memory="off")) as handle:
        handle.new_cache()
        assert not any(m._forward_pre_hooks for m in modules)
    with everlong.attach(model, infinity()) as handle:
        cache = handle.new_cache()
        assert all(len(m._forward_pre_hooks) == 1 for m in modules)
        handle.new_cache()
        assert all(len(m._forward_pre_hooks) == 1 for m in modules)
        with torch.no_grad():
            assert model(IDS).logits.isfinite().all()
    fork = cache.fork()
    cache.close()
    read(model, fork, IDS)
    fork.close()
    assert not any(m._forward_pre_hooks for m in modules)


def test_the_regulariser_reaches_the_widths(one_layer):
    """And nothing but them in a model of one layer: the place of a density is free."""
    losses = []
    for weight in (0.1, 0.2):
        with attach_training(one_layer, infinity(kl=weight)) as training:
            one_layer.zero_grad()
            one_layer(IDS[:, :8])
            assert training.extra_loss() is None
            one_layer(IDS)
            losses.append(training.extra_loss())
            losses[-1].backward()
            p = training.parameters
            assert p.w_var.grad.abs().max() > 0
            assert p.W_K.grad.abs().max() > 0
            for free in (p.w_mu, p.W_V, p.W_O):
                assert free.grad is None or not free.grad.any()
    torch.testing.assert_close(losses[1], 2 * losses[0])
    with attach_training(one_layer, infinity(kl=0.0)) as training:
        one_layer(IDS)
        assert training.extra_loss() is None


def test_the_regulariser_is_the_mean_over_tokens_that_read(one_layer):
    """Where var is 0.1 for every token: 0.5 (0.1 / 0.05^2 - log(0.1 / 0.05^2) - 1)."""
    with attach_training(one_layer, infinity(kl=1.0)) as training, torch.no_grad():
        training.parameters.W_K.zero_()
        one_layer(IDS[:, :45])
        var = math.log(2.0)
        expected = 0.5 * (var / 0.0025 - math.log(var / 0.0025) - 1)
        assert float(training.extra_loss()) == pytest.approx(expected, rel=1e-5)


def test_no_gradient_passes_through_the_old_signal(model):
    """A loss reaches the convolution through the newest fit, and no token of an earlier segment."""
    grads = []
    trained(model, infinity())
    for cut in (False, True):
        with attach_training(model, infinity()) as training:
            model.zero_grad()
            carried, embedded = Carried(), model.get_input_embeddings()(IDS[:, :32]).detach().requires_grad_()
            model(inputs_embeds=embedded[:, :16], carried=carried)
            if cut:
                carried.detach()
            model(inputs_embeds=embedded[:, 16:], carried=carried).logits[:, 8:].square().mean().backward()
            assert not embedded.grad[:, :24].any()
            assert embedded.grad[:, 24:].abs().amax(-1).min() > 0
            grads.append(training.parameters.conv_weight.grad.clone())
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1], atol=1e-7, rtol=1e-5)


def test_what_was_read_in_inference_mode_can_be_trained(model):
    """Constant matrices are worked out once, wherever they are needed first."""
    method = infinity(segment=7, basis=12)
    with torch.inference_mode():
        streamed(model, method, IDS)
    for kind in (torch.float32, torch.float64):
        with attach_training(model.to(kind), method) as training:
            model(IDS).logits.sum().backward()
            assert training.parameters.W_O.grad.abs().max() > 0


def test_autocast_does_not_reach_the_signal():
    W, N, shapes = 8, 16, {"W_K": (6, 8), "W_V": (6, 8), "W_O": (12, 12), "conv_weight": (8, 8, 3), "conv_bias": (8,)}
    given = {name: torch.randn(shape) for name, shape in (shapes | {"w_mu": (N,), "w_var": (N,)}).items()}
    signal, found = Signal.of(8, N, 20, 0.5, 0.5, True), []
    first, second, q = torch.randn(2, 8, W), torch.randn(2, 8, W), torch.randn(2, 4, 5, 3)
    for cast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            b = signal.begun(first, given)
            out, density = signal.read(q, *signal.projected(b, given, 2), given)
            found.append([b, out, *density, signal.gone_on(b, second, given, density)])
    for exact, cast in zip(*found, strict=True):
        assert torch.equal(exact, cast)


def test_half_types_keep_the_signal_in_float32(model):
    """In a bfloat16 model, and where training computes in bfloat16."""
    trained(model, infinity(), spread=0.1)
    expected = streamed(model, infinity(), IDS)
    with attach_training(model, infinity()), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = model(IDS).logits
    assert (got - expected).norm() < 0.05 * expected.norm()
    for name, weight in model.named_parameters():
        if "everlong_memory" not in name:
            weight.data = weight.data.bfloat16()
    with everlong.attach(model, infinity()) as handle:
        cache = handle.new_cache()
        got = read(model, cache, IDS)
        types = {name: x.dtype for name, x in cache.stream.memory.states[0].items()}
    assert (got - expected).norm() < 0.1 * expected.norm()
    assert types.pop("hidden") == torch.bfloat16
    assert set(types.values()) == {torch.float32}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: streamed(trained(m, infinity()), infinity(basis=18), IDS), "give those that it was trained with"),
        (lambda m: attach_training(m, infinity(memory="off")), "memory=off: a control for reading"),
        (lambda m: streamed(trained(m, infinity()), everlong.TransformerXL(), IDS), "was trained for infinity_former"),
        (lambda m: streamed(m, infinity(basis=64), IDS), "points=20: with basis=64, tau=0.5 and segment=8 the old"),
        (lambda m: infinity(basis=17), "basis=17: must be even"),
        (lambda m: infinity(points=0), "points=0: must be at least 1"),
        (lambda m: infinity(tau=1.0), r"tau=1\.0: must lie between 0 and 1"),
        (lambda m: infinity(ridge=0.0), r"ridge=0\.0: must be above 0"),
        (lambda m: infinity(kl=-1.0), r"kl=-1\.0: must be at least 0"),
        (lambda m: make_method("infinity_former", {"local": "all"}), "local=all: expected"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(model, call, message):
    with pytest.raises((CapabilityError, ConfigError), match=message) as error:
        call(model)
    assert "\n" not in str(error.value)
    assert "forward" not in model.model.__dict__


def test_weights_of_writing_have_no_meaning_here(model):
    with attach_training(model, infinity()):
        model(IDS, write_weight=torch.ones(2, 75))
        with pytest.raises(CapabilityError, match="infinity_former keeps every token alike"):
            model(IDS, write_weight=torch.full((2, 75), 2.0))
