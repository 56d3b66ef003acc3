"""Models with layers that keep a state of constant size: it is part of the stream, and methods leave it alone."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

import everlong
from everlong import Blocks, Sinks
from everlong.engine.engine import Engine
from everlong.errors import CapabilityError, UnsupportedLayerError
from everlong.hooks.attach import Handle, attach
from everlong.hooks.packed_check import unpackable
from everlong.models.load import Loaded
from everlong.session.session import Session
from tests.families.measure import TIGHT
from tests.families.models import plain, stream, tokens
from tests.families.reference import windowed
from tests.families.zoo import tiny

KINDS = {
    "Qwen3NextForCausalLM": "linear attention beside softmax",
    "JambaForCausalLM": "its states are carried by single tokens only",
    "FalconH1ForCausalLM": "each layer attends and keeps a state",
    "Lfm2ForCausalLM": "short convolutions",
}
each_kind = pytest.mark.parametrize("name", KINDS)
most_kinds = pytest.mark.parametrize("name", [name for name in KINDS if name != "Lfm2ForCausalLM"])
SINGLY = {"JambaForCausalLM"}
BLOCKS = Blocks(window=12, sinks=3, block=5, top_k=3, repr_topk=2, exec_chunk=16, pool=6, codec="native")
TEXT = tokens(120)


HELD: dict[str, tuple[PreTrainedModel, Handle]] = {}


def model_of(name: str) -> PreTrainedModel:
    """The tiny model of a class, which stays attached until the last test, so that it is probed once."""
    if name not in HELD:
        model = tiny(name)
        HELD[name] = model, attach(model, TIGHT)
    return HELD[name][0]


@pytest.fixture(scope="module", autouse=True)
def _held():
    yield
    for _, handle in HELD.values():
        handle.detach()
    HELD.clear()


def allowed(want: torch.Tensor) -> float:
    return 1e-4 * max(1.0, float(want.abs().max()))


@each_kind
def test_equals_stock_while_all_fits_and_the_reference_after_eviction(name):
    model = model_of(name)
    with attach(model, Sinks(sinks=4, window=60)) as handle:
        want = plain(model, TEXT[:, :48])
        for cut in (48, 7, (20, *[1] * 9, 19)):
            got = stream(model, handle.new_cache(), TEXT[:, :48], cut)
            assert (got - want).abs().max() <= allowed(want)
        assert handle.plan.steps_singly == (name in SINGLY)
    with attach(model, TIGHT) as handle:
        want = windowed(model, handle.plan, TEXT, TIGHT.sinks, TIGHT.window)
        assert (want - plain(model, TEXT)).abs().max() > 0.01
        for cut in (50, 7):
            got = stream(model, handle.new_cache(), TEXT, cut)
            assert (got - want).abs().max() <= allowed(want)


@each_kind
def test_blocks_serve_the_softmax_layers_for_any_cut(name):
    model = model_of(name)
    with attach(model, BLOCKS) as handle:
        want = stream(model, handle.new_cache(16), TEXT, 50)
        got = stream(model, handle.new_cache(16), TEXT, 7)
        assert (got - want).abs().max() <= 2 * allowed(want)
        served = handle.new_cache(16).stream.memory.layers
        assert served == {p.index for p in handle.plan.layers}


@most_kinds
def test_states_stay_as_large_as_they_are_and_are_reported(name):
    model = model_of(name)
    with attach(model, Sinks(sinks=4, window=28)) as handle, torch.inference_mode():
        cache, sizes = handle.new_cache(64), []
        for piece in tokens(600).split(100, 1):
            model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
            sizes.append((cache.report().state_bytes, cache.report().bytes["device"]))
        assert len(set(sizes)) == 1
        states, device = sizes[0]
        assert 0 < states == handle.plan.state_bytes
        assert device <= cache.stream.planned_bytes()
        assert "hold all that was read in compressed form" in str(cache.report())


@most_kinds
def test_a_fork_goes_on_alone_and_rows_are_chosen(name):
    model = model_of(name)
    with attach(model, TIGHT) as handle, torch.no_grad():
        cache = handle.new_cache()
        stream(model, cache, TEXT[:, :40], 10)
        fork = cache.fork()
        want = stream(model, fork, TEXT[:, 40:60], 5)
        stream(model, cache.fork(), TEXT[:, 60:90], 5)
        assert torch.equal(stream(model, cache, TEXT[:, 40:60], 5), want)
        rows = handle.new_cache()
        pair = torch.cat([TEXT[:, :40], TEXT[:, 40:80]])
        stream(model, rows, pair, 10)
        rows.reorder_cache(torch.tensor([1, 0]))
        got = stream(model, rows, pair.flip(0), 10)
        again = handle.new_cache()
        stream(model, again, pair.flip(0), 10)
        torch.testing.assert_close(got, stream(model, again, pair.flip(0), 10), atol=1e-4, rtol=0)


@most_kinds
@pytest.mark.parametrize("tokens_read", [1, 6])
def test_a_forward_that_fails_leaves_the_states_as_they_were(name, tokens_read):
    model = model_of(name)
    last = list(model.get_decoder().layers)[-1]

    def fail(*args):
        raise KeyboardInterrupt

    with attach(model, TIGHT) as handle, torch.no_grad():
        cache = handle.new_cache()
        stream(model, cache, TEXT[:, :30], 10)
        twin = cache.fork()
        hook = last.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            stream(model, cache, TEXT[:, 50 : 50 + tokens_read], tokens_read)
        hook.remove()
        assert cache.get_seq_length() == 30
        assert torch.equal(stream(model, cache, TEXT[:, 30:40], 5), stream(model, twin, TEXT[:, 30:40], 5))


def test_what_a_state_holds_is_not_taken_back():
    model = model_of("Qwen3NextForCausalLM")
    with attach(model, TIGHT) as handle, torch.no_grad():
        cache = handle.new_cache()
        want = stream(model, cache, TEXT[:, :10], 5)
        assert not cache.is_croppable
        with pytest.raises(CapabilityError, match=r"fold all that they read into a state.*take a mark or a fork"):
            cache.crop(-1)
        cache.crop(-10)
        assert torch.equal(stream(model, cache, TEXT[:, :10], 5), want)
        cache.reset()
        assert cache.report().state_bytes == 0
        assert torch.equal(stream(model, cache, TEXT[:, :10], 5), want)


def test_padded_rows_are_refused():
    model = model_of("Qwen3NextForCausalLM")
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with attach(model, TIGHT) as handle, pytest.raises(CapabilityError, match=r"no linear layers.*rows one by one"):
        model(TEXT[:, :8].reshape(2, 4), attention_mask=mask, past_key_values=handle.new_cache(), use_cache=True)


@pytest.mark.parametrize("method", [TIGHT, BLOCKS], ids=["sinks", "blocks"])
@pytest.mark.parametrize("name", ["Qwen3NextForCausalLM", "JambaForCausalLM"])
def test_a_saved_session_goes_on_and_a_mark_is_come_back_to(name, method, tmp_path):
    loaded = Loaded(model_of(name), None, name)
    with Session(loaded, method, 16) as session:
        session.feed(TEXT[0, :60])
        mark = session.mark()
        path = session.save(tmp_path / "kept.everlong")
        session.feed(TEXT[0, 60:80])
        want = session.prediction
        session.rewind(mark)
        session.offload()
        session.feed(TEXT[0, 60:80])
        assert torch.equal(session.prediction, want)
    with Session.load(path, loaded, 16) as again:
        again.feed(TEXT[0, 60:80])
        torch.testing.assert_close(again.prediction, want, atol=1e-5, rtol=0)


def test_forgetting_from_a_state_is_refused(tmp_path):
    with Session(Loaded(model_of("Qwen3NextForCausalLM"), None, "m"), BLOCKS, 16, tmp_path, "s") as session:
        session.feed(TEXT[0])
        with pytest.raises(CapabilityError, match=r"linear layers.*--reread"):
            session.forget((10, 20))


@pytest.mark.parametrize("name", ["Qwen3NextForCausalLM", "JambaForCausalLM"])
def test_the_engine_reads_such_streams_one_by_one(name):
    loaded = Loaded(model_of(name), None, name)
    assert "keeps a state of all that it read, of one stream at a time" in str(unpackable(loaded.model))
    texts = [TEXT[0, :30], TEXT[0, 30:50]]
    wanted = {"max_new_tokens": 5, "temperature": 0.0}
    sessions = [Session(loaded, method, 16) for method in (TIGHT, BLOCKS)]
    expected = []
    for one, text in zip(sessions, texts, strict=True):
        fork = one.fork()
        expected.append(fork.generate(text, **wanted).token_ids)
        fork.close()
    engine = Engine(tokens=12, streams=1, turn=2)
    requests = [engine.submit(one, text, **wanted) for one, text in zip(sessions, texts, strict=True)]
    engine.run()
    assert [request.result.token_ids for request in requests] == expected
    for one in sessions:
        one.close()


def test_a_state_that_differs_token_by_token_is_refused(monkeypatch):
    model = tiny("NemotronHForCausalLM")
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.5, float("inf"))
    with pytest.raises(UnsupportedLayerError, match="layer 0: read token by token it has another state"):
        everlong.attach(model, TIGHT)


@each_kind
def test_cuts_differ_by_no_more_than_the_model_itself(name):
    """Plain transformers in pieces (single tokens where pieces forget) against everything at once is the measure."""
    model = model_of(name)
    ids = TEXT[:, :60]
    want = plain(model, ids)
    places = torch.arange(60)[None]
    cut = 1 if name in SINGLY else 7
    stock, rows = DynamicCache(config=model.config), []
    with torch.no_grad():
        for piece, at in zip(ids.split(cut, 1), places.split(cut, 1), strict=True):
            rows.append(model(piece, position_ids=at, past_key_values=stock, use_cache=True).logits)
    noise = float((torch.cat(rows, 1) - want).abs().max())
    with attach(model, Sinks(sinks=4, window=60)) as handle:
        got = stream(model, handle.new_cache(), ids, cut)
    assert float((got - want).abs().max()) <= 2 * noise + 1e-5
