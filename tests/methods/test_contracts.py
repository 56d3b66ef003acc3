"""What every registered method must keep, on a real Llama of 260K parameters trained on 512 tokens and on tiny ones."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import everlong
from everlong.cache.state import load_stream, stream_state
from everlong.errors import ConfigError
from everlong.hooks.training import attach_training
from everlong.methods import make_method, method_class, method_names

SMALL = {"window": 12, "sinks": 4, "block": 5, "top_k": 3, "exec_chunk": 16, "pool": 6, "segment": 8, "beta": 0.0}
SMALL |= {"basis": 16, "points": 20, "codec": "native"}
FITS = {"window": 60, "segment": 60, "mem_len": 60}
IDS = torch.randint(97, (1, 300), generator=torch.Generator().manual_seed(5))
CHUNKS = (1, 7, 64, 512)


def small(name, **fields):
    known = method_class(name).__dataclass_fields__
    return make_method(name, {k: v for k, v in (SMALL | fields).items() if k in known})


@contextmanager
def attached(model, method):
    """A handle; a trained method finds parameters that were moved from where they start."""
    if method.trained:
        with attach_training(model, replace(method, memory="on")) as training, torch.no_grad():
            for n, p in enumerate(training.parameters.parameters()):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(n)) * 0.5)
    try:
        with everlong.attach(model, method) as handle:
            yield handle
    finally:
        model.model._modules.pop("everlong_memory", None)


STREAMS = [(n, {}) for n in method_names() if method_class(n).streams] + [
    ("delta", {"decay": True, "degree": 1, "local": "segment"}),
    ("delta", {"projections": "none", "look_back": 4}),
    ("infinity_former", {"local": "xl"}),
    ("transformer_xl", {"mem_len": 19}),
    ("transformer_xl", {"mem_len": 11, "same_length": True}),
    ("transformer_xl", {"variant": "faithful"}),
    ("transformer_xl", {"variant": "faithful", "mem_len": 5, "same_length": True, "clamp_len": 3}),
]
STOCK = [(n, fields) for n, fields in STREAMS if n != "delta" and fields.get("variant") != "faithful"]
"""Those that see what the stock model sees while all fits.

A faithful Transformer-XL scores by other positions; `delta` reads its memory from the first token on."""


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=3, max_position_embeddings=64, initializer_range=0.3)


def read(model, cache, ids, chunk):
    with torch.no_grad():
        return torch.cat([model(p, past_key_values=cache).logits for p in ids.split(chunk, dim=1)], 1)


@pytest.mark.parametrize(("name", "fields"), STOCK)
def test_equals_dense_while_all_fits(model, name, fields):
    with attached(model, small(name, **fields | FITS)) as handle, torch.no_grad():
        expected = model(IDS[:, :60]).logits
        for chunk in CHUNKS:
            got = read(model, handle.new_cache(), IDS[:, :60], chunk)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


LONGER = pytest.param(300, marks=pytest.mark.slow(reason="`make test` reads one and a half trained lengths"))


@pytest.mark.parametrize("tokens", [99, LONGER])
@pytest.mark.parametrize(("name", "fields"), STREAMS)
def test_same_for_any_chunking_and_causal(model, name, fields, tokens):
    ids, cut = IDS[:, :tokens], tokens * 2 // 3
    with attached(model, small(name, **fields)) as handle:
        expected = read(model, handle.new_cache(), ids, 1)
        for chunk in CHUNKS[1:]:
            got = read(model, handle.new_cache(chunk=16), ids, chunk)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        later = ids.clone()
        later[:, cut:] = 1
        got = read(model, handle.new_cache(), later, 64)
        torch.testing.assert_close(got[:, :cut], expected[:, :cut], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "fields"), STREAMS)
def test_rows_equal_single_runs(model, name, fields):
    rows = torch.cat([IDS[:, :150], IDS[:, 150:]])
    with attached(model, small(name, **fields)) as handle:
        both = read(model, handle.new_cache(), rows, 32)
        for i, row in enumerate(rows.split(1)):
            alone = read(model, handle.new_cache(), row, 32)
            torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "fields"), STREAMS)
def test_fork_and_state_give_the_same_next_token(model, name, fields):
    with attached(model, small(name, **fields)) as handle:
        cache = handle.new_cache()
        read(model, cache, IDS[:, :200], 50)
        restored = handle.new_cache()
        load_stream(restored.stream, *stream_state(cache.stream))
        expected = read(model, cache.fork(), IDS[:, 200:260], 20)
        assert torch.equal(read(model, restored, IDS[:, 200:260], 20), expected)
        assert torch.equal(read(model, cache, IDS[:, 200:260], 20), expected)


@pytest.mark.parametrize(("name", "fields"), [k for k in STREAMS if k[0] != "dense"])
def test_state_stays_under_its_bytes(model, name, fields):
    with attached(model, small(name, **fields)) as handle:
        cache = handle.new_cache(chunk=32)
        read(model, cache, IDS, 32)
        assert 0 < cache.report().bytes["device"] <= cache.stream.planned_bytes()


def test_names_that_do_not_exist_list_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'sinks'"):
        method_class("sink")
    with pytest.raises(ConfigError, match="window"):
        make_method("sinks", {"windows": 4})


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("window", {"window": 0}, "window=0: must be at least 1"),
        ("sinks", {"sinks": -1}, "sinks=-1: must be at least 0"),
        ("recompute", {"window": "-3"}, "window=-3: must be at least 1"),
        ("dense", {"window": 3}, "window"),
        ("sinks", {"window": 10**30}, "window=1000000000000000000000000000000: must be at most 2147483647"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(name, fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_method(name, fields)
    assert "\n" not in str(caught.value)


def test_the_public_classes_are_the_registered_ones():
    assert {n: method_class(n) for n in ("dense", "window", "recompute", "sinks")} == {
        "dense": everlong.Dense,
        "window": everlong.Window,
        "recompute": everlong.Recompute,
        "sinks": everlong.Sinks,
    }
    assert str(everlong.Sinks()) == "sinks(sinks=4, window=1020)"


@pytest.mark.heavy(reason="only a trained model shows it, and only over a text that it has written itself")
def test_only_dense_collapses_past_the_trained_length(stories):
    """stories260K was trained on 512 positions: past 2,000 tokens dense is lost, a bounded window is not."""
    model = everlong.load(str(stories)).model
    torch.manual_seed(0)
    starts = torch.ones(16, 1, dtype=torch.long)
    stories_in_a_row = model.generate(starts, do_sample=True, max_new_tokens=249, min_new_tokens=249, pad_token_id=0)
    ids = stories_in_a_row.reshape(1, -1)
    perplexity = {}
    for method in (everlong.Dense(), everlong.Window(window=252), everlong.Sinks(sinks=4, window=248)):
        with everlong.attach(model, method) as handle:
            logits = read(model, handle.new_cache(), ids, 512)[0, 3000:-1].log_softmax(-1)
        nll = -logits.gather(1, ids[0, 3001:, None]).mean()
        perplexity[method.name] = math.exp(nll)
    assert perplexity["dense"] > 10 * perplexity["sinks"], perplexity
    assert perplexity["dense"] > 10 * perplexity["window"], perplexity
