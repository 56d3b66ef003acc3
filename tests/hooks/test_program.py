"""A decoder's forward over one token, run from what was recorded: the same numbers, and made anew when it changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import everlong
from everlong.cache.step import ForwardPlan
from everlong.engine import batch
from everlong.engine.stream import StreamPiece, TokenStream
from everlong.hooks import patch
from everlong.hooks.program.listing import ROWS
from everlong.hooks.program.lower import Lowering
from everlong.hooks.program.make import TOLERANCE
from everlong.hooks.program.record import NotRecorded, OperationRecorder
from everlong.hooks.program.run import Program
from everlong.hooks.program.switch import switch_of
from everlong.models.load import Loaded
from everlong.models.packed_linear import pack_model
from everlong.ops.native import extension
from everlong.ops.workspace import Workspace

pytestmark = pytest.mark.skipif(extension() is None, reason="the C extension was not built")
IDS = torch.randint(97, (120,), generator=torch.Generator().manual_seed(3))
METHODS = {
    "sinks": everlong.Sinks(window=24, sinks=4),
    "blocks": everlong.Blocks(sinks=4, window=24, block=8, top_k=2, exec_chunk=32, pool=8, recall="layer"),
}


def of_type(model, dtype):
    """The model with its weights in `dtype`; buffers stay as they are."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def written(model, method, tokens=40):
    """The predictions behind each of the last tokens, one at a time."""
    with everlong.Session(model, method, chunk=32) as session:
        session.feed(IDS[:-tokens])
        found = []
        for token in IDS[-tokens:].tolist():
            session.feed([token], answering=True)
            found.append(session.prediction)
        return torch.stack(found)


def by_modules(model, method, monkeypatch):
    """The same, each forward through the model's own modules."""
    with monkeypatch.context() as context:
        context.setattr(patch, "runs_from_list", lambda *args: False)
        return written(model, method)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("weights", ["full", "int8", "int4"])
def test_gives_what_the_modules_give(tiny_llama, monkeypatch, method, weights):
    model = tiny_llama(hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    pack_model(model, weights)
    runs = []
    run = Program.run
    monkeypatch.setattr(Program, "run", lambda self, *args: (runs.append(self), run(self, *args))[1])
    found = written(model, method)
    assert len(runs) >= 40
    torch.testing.assert_close(found, by_modules(model, method, monkeypatch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_attentions_are_part_of_the_list_where_all_is_known_before(tiny_llama, monkeypatch, method):
    model = tiny_llama(hidden_size=64, num_hidden_layers=2)
    inside = written(model, method)
    between = []
    step_by_step = Program._between

    def counted(self, steps, words):
        between.extend(1 for step, _ in steps if step.tokens == 1)
        step_by_step(self, steps, words)

    monkeypatch.setattr(Program, "_between", counted)
    written(model, method)
    assert len(between) <= 40 // method.as_dict().get("choose_every", 40) + 2
    monkeypatch.setattr(Program, "_tables", lambda self, step: None)
    torch.testing.assert_close(inside, written(model, method), atol=1e-5, rtol=0)
    assert len(between) > 40


@pytest.mark.parametrize("width", [32, 64], ids=["attentions in torch", "attentions in the list"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_of_many_streams_are_run_at_once(tiny_llama, monkeypatch, dtype, width):
    model = of_type(tiny_llama(hidden_size=width, num_hidden_layers=2), dtype)
    rows = []
    run = Program.run
    monkeypatch.setattr(
        Program, "run", lambda self, steps, given: (rows.append(len(steps)), run(self, steps, given))[1]
    )
    many, alone = ([TokenStream(Loaded(model, None, "m"), m, 32) for m in METHODS.values()] for _ in range(2))
    for streams in (many, alone):
        for n, stream in enumerate(streams):
            stream.feed(IDS[: 60 + 7 * n])
    rows.clear()
    for token in IDS[80:100]:
        batch.read([StreamPiece(stream, token[None], answering=True) for stream in many])
        for one, stream in zip(alone, many, strict=True):
            one.feed(token[None], answering=True)
            allowed = 1e-4 if dtype == torch.float32 else 0.1
            torch.testing.assert_close(stream.prediction, one.prediction, atol=allowed, rtol=0)
    assert rows.count(2) == 20
    for stream in (*many, *alone):
        stream.close()


@pytest.mark.parametrize("width", [32, 64], ids=["attentions in torch", "attentions in the list"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_few_tokens_of_a_text_are_run_beside_a_token_of_an_answer(tiny_llama, monkeypatch, dtype, width):
    model = of_type(tiny_llama(hidden_size=width, num_hidden_layers=2), dtype)

    def run():
        ran = []
        inner = Program.run
        with monkeypatch.context() as context:
            context.setattr(
                Program, "run", lambda self, steps, given: (ran.append(len(given)), inner(self, steps, given))[1]
            )
            streams = [TokenStream(Loaded(model, None, "m"), m, 40) for m in METHODS.values()]
            for stream in streams:
                stream.feed(IDS[:60])
            at, found = 60, []
            # Pieces that end inside, at and behind the borders at which blocks are sealed and chosen.
            for size in (1, 4, 13, 18, 24):
                pieces = [StreamPiece(streams[0], IDS[at : at + 1], True), StreamPiece(streams[1], IDS[at : at + size])]
                batch.read(pieces)
                found += [stream.prediction for stream in streams]
                at += size
            streams[1].feed(IDS[at:120], answering=True)
            found.append(streams[1].prediction)
            cited = dict(streams[1].stored("test").rows[0].done.cited)
            for stream in streams:
                stream.close()
            return found, cited, ran

    found, cited, ran = run()
    assert {5, 14, 19, 25} <= set(ran)
    monkeypatch.setattr(patch, "runs_from_list", lambda *args: False)
    expected, cited_by_modules, ran = run()
    assert not ran
    allowed = 1e-4 if dtype == torch.float32 else 0.1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=allowed, rtol=0)
    if dtype == torch.float32:
        assert cited == pytest.approx(cited_by_modules, abs=1e-3)


def test_more_tokens_than_rows_are_read_by_the_modules(tiny_llama, monkeypatch):
    model = tiny_llama(hidden_size=64, num_hidden_layers=2)
    ran = []
    inner = Program.run
    monkeypatch.setattr(
        Program, "run", lambda self, steps, given: (ran.append(len(given)), inner(self, steps, given))[1]
    )
    with everlong.Session(model, METHODS["sinks"], chunk=64) as session:
        session.feed(IDS[: ROWS + 1])
        assert ROWS + 1 not in ran
        session.feed(IDS[:ROWS])
        assert ran[-1] == ROWS


def test_in_bfloat16_it_is_no_farther_from_float32_than_the_modules(tiny_llama, monkeypatch):
    model = tiny_llama(num_hidden_layers=2)
    exact = written(model, METHODS["sinks"])
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    found = (written(model, METHODS["sinks"]), by_modules(model, METHODS["sinks"], monkeypatch))
    assert switch_of(model.model).reason is None
    errors = [float((x.float() - exact).norm() / exact.norm()) for x in found]
    assert errors[0] < 1.1 * errors[1] < TOLERANCE[torch.bfloat16]


NO_STEP = ForwardPlan(0, 1, 1, 0, [], {}, {}, Workspace(), torch.float32)


class Doubled(nn.Module):
    """Twice what a layer gives."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 2 * self.layer(x)


def _scaled(model):
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)


def _replaced(model):
    model.model.layers[1].mlp = Doubled(model.model.layers[1].mlp)


def _hooked(model):
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out * 1.5)


def _own_forward(model):
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x, forward=mlp.forward: forward(x) * 1.5


@pytest.mark.parametrize("change", [_scaled, _replaced, _hooked, _own_forward])
def test_a_model_that_was_changed_is_recorded_anew_or_run_as_it_is(tiny_llama, monkeypatch, change):
    model = tiny_llama(num_hidden_layers=2)
    before = written(model, METHODS["sinks"])
    change(model)
    found = written(model, METHODS["sinks"])
    assert (found - before).abs().max() > 1e-3
    torch.testing.assert_close(found, by_modules(model, METHODS["sinks"], monkeypatch), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_that_are_turned_off_count(tiny_llama, monkeypatch):
    peft = pytest.importorskip("peft", reason="the extra everlong[train] is not installed")
    model = tiny_llama(num_hidden_layers=2)
    config = peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    on = written(model, METHODS["sinks"])
    with adapted.disable_adapter():
        off = written(model, METHODS["sinks"])
        torch.testing.assert_close(off, by_modules(model, METHODS["sinks"], monkeypatch), atol=1e-4, rtol=0)
    assert (on - off).abs().max() > 1e-3
    assert "peft" in switch_of(model.model).reason


def test_gradients_and_hidden_states_come_from_the_modules(tiny_llama):
    model = tiny_llama(num_hidden_layers=2)
    with everlong.attach(model, METHODS["sinks"]) as handle:
        cache = handle.new_cache(32)
        with torch.no_grad():
            model(IDS[None, :20], past_key_values=cache)
        assert model(IDS[None, 20:21], past_key_values=cache).logits.requires_grad


class Steps(nn.Module):
    """Every operation that is known, over one token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 24)
        self.a, self.b = nn.Linear(24, 40), nn.Linear(40, 24, bias=False)
        self.norm, self.layer = nn.RMSNorm(24, 1e-6), nn.LayerNorm(24)
        self.scale = nn.Parameter(torch.rand(24) + 0.5)

    def forward(self, ids):
        x = self.embed(ids)
        for f in (torch.exp, torch.tanh, torch.sigmoid, torch.relu, torch.neg, torch.square, nn.functional.silu):
            x = x + 0.3 * f(x) - x / 4
        x = self.layer(self.norm(x)) * (1 + self.scale)
        y = self.a(x).view(1, 1, 5, 8).transpose(1, 2)
        y = torch.cat((-y[..., 4:], y[..., :4]), -1) * 0.7 + nn.functional.softplus(y)
        y = torch.stack((y[..., ::2], y[..., 1::2]), -1).flatten(3)
        y = nn.functional.gelu(y) + nn.functional.gelu(y, approximate="tanh")
        x = x + self.b(y.transpose(1, 2).reshape(1, 1, 40))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) - x.pow(2).sqrt()
        return x.clone() * self.scale


def test_every_operation_gives_what_torch_gives():
    module = Steps()
    recorder = OperationRecorder()
    first = torch.tensor([[3]])
    with torch.inference_mode(), recorder.of(module):
        out = module(first)
    lowered = Lowering(module, recorder.found, [first], out).lowered(out)
    program = Program(lowered, extension(), torch.float32, dict)
    for token in (3, 7, 0):
        ids = torch.tensor([[token]])
        with torch.no_grad():
            torch.testing.assert_close(program.run([NO_STEP], [[ids]]), module(ids), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.add_(1),
        lambda x: x * 2 if x.sum() > 0 else x,
        lambda x: x.topk(3).values.sum(-1, keepdim=True) + x,
        lambda x: x[x > 0].sum() + x,
        lambda x: torch.cumsum(x, -1),
        lambda x: x + torch.full((4,), 2.0),
    ],
)
def test_what_depends_on_more_than_fixed_operations_is_not_recorded(step):
    module = nn.Embedding(5, 4)
    recorder = OperationRecorder()
    ids = torch.tensor([[2]])
    with torch.inference_mode(), recorder.of(module):
        out = step(module(ids))
    with pytest.raises(NotRecorded):
        Lowering(module, recorder.found, [ids], out).lowered(out)


@pytest.mark.parametrize("raised", [ValueError("odd"), KeyboardInterrupt()])
def test_a_model_that_cannot_be_recorded_runs_by_its_modules(tiny_llama, monkeypatch, raised):
    model = tiny_llama(num_hidden_layers=2)
    with monkeypatch.context() as broken:

        def fails(self, out):
            raise raised

        broken.setattr(Lowering, "lowered", fails)
        if isinstance(raised, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                written(model, METHODS["sinks"])
        else:
            assert written(model, METHODS["sinks"]).isfinite().all()
            assert switch_of(model.model).reason == "odd"
    if isinstance(raised, KeyboardInterrupt):
        written(model, METHODS["sinks"])
        assert switch_of(model.model).reason is None


def test_without_the_extension_the_modules_run(tiny_llama, monkeypatch):
    monkeypatch.setattr("everlong.hooks.program.make.extension", lambda: None)
    model = tiny_llama(num_hidden_layers=2)
    assert written(model, METHODS["sinks"]).isfinite().all()
    assert switch_of(model.model).reason == "there is no C extension"
