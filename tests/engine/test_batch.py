"""Streams of different lengths and methods read in one forward: each as if it were alone."""

from __future__ import annotations

import pytest
import torch
import transformers

from everlong import Blocks, Delta, Dense, Infini, InfinityFormer, Sinks, TransformerXL, Window
from everlong.engine import batch
from everlong.engine.stream import StreamPiece, TokenStream
from everlong.errors import CapabilityError
from everlong.hooks.packed_check import unpackable
from everlong.models.load import Loaded
from tests.engine.methods import SMALL

METHODS = {
    "dense": Dense(),
    "window": Window(window=20),
    "sinks": Sinks(sinks=3, window=17),
    "blocks": Blocks(**SMALL, recall="layer"),
    "surprise": Blocks(**SMALL, recall="layer", cut="surprise", surprise_window=16),
    "infini": Infini(segment=16),
    "delta": Delta(segment=16),
    "transformer_xl": TransformerXL(segment=16),
    "infinity_former": InfinityFormer(segment=16, basis=8, points=32),
}
CHUNK = 32


def stream(model, method):
    return TokenStream(Loaded(model, None, "tiny"), method, CHUNK)


@pytest.fixture
def counted(tiny_llama):
    """A tiny model, and how often its decoder ran."""
    model = tiny_llama()
    ran = []
    model.model.norm.register_forward_hook(lambda *_: ran.append(1))
    return model, ran


def read(pieces):
    batch.read([StreamPiece(*piece) for piece in pieces])


def test_streams_of_all_methods_are_as_if_alone(counted):
    model, ran = counted
    draw = torch.Generator().manual_seed(1)
    together = {name: stream(model, method) for name, method in METHODS.items()}
    alone = {name: stream(model, method) for name, method in METHODS.items()}
    assert unpackable(model) is None
    for step in range(40):
        taking = [name for name in METHODS if torch.rand((), generator=draw) < 0.7] or ["dense"]
        length = (1, 1, 1, 7, 23)
        sizes = [length[int(torch.randint(len(length), (), generator=draw))] for _ in taking]
        ids = [torch.randint(97, (n,), generator=draw) for n in sizes]
        answering = step % 2 == 1
        ran.clear()
        read([(together[name], part, answering) for name, part in zip(taking, ids, strict=True)])
        assert len(ran) == 1
        for name, part in zip(taking, ids, strict=True):
            alone[name].feed(part, answering=answering)
            torch.testing.assert_close(together[name].prediction, alone[name].prediction, atol=1e-4, rtol=0)
        if step == 20:  # forks go on with the others
            for streams in (together, alone):
                streams |= {name: one.fork() for name, one in streams.items()}
    for name, one in together.items():
        ours, theirs = one.report(), alone[name].report()
        assert (ours.seen_tokens, ours.stored_tokens) == (theirs.seen_tokens, theirs.stored_tokens)
        assert one.transcript.ids == alone[name].transcript.ids


def test_a_forward_that_fails_leaves_every_stream_as_it_was(counted, monkeypatch):
    model, _ = counted
    streams = [stream(model, METHODS[name]) for name in ("sinks", "blocks")]
    for one in streams:
        one.feed(list(range(40)))
    before = [one.prediction.clone() for one in streams]

    def fails(x):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[1].mlp, "forward", fails)
        with pytest.raises(RuntimeError, match="in the middle"):
            read([(one, torch.tensor([5, 6])) for one in streams])
    assert [one.seen_tokens for one in streams] == [40, 40]
    for one, prediction in zip(streams, before, strict=True):
        fresh = stream(model, one.method)
        fresh.feed(list(range(40)))
        assert torch.equal(one.prediction, prediction)
        read([(one, torch.tensor([5])), (streams[0].fork(), torch.tensor([1]))])
        fresh.feed([5])
        torch.testing.assert_close(one.prediction, fresh.prediction, atol=1e-4, rtol=0)


def test_what_cannot_be_packed_is_read_one_by_one(counted, monkeypatch):
    model, ran = counted
    streams = [stream(model, Sinks(sinks=2, window=9)) for _ in range(2)]
    monkeypatch.setattr("everlong.engine.batch.unpackable", lambda model: "it may not")
    ran.clear()
    read([(one, torch.tensor([5, 6])) for one in streams])
    assert len(ran) == 2
    torch.testing.assert_close(streams[0].prediction, streams[1].prediction)


def test_alibi_says_why_not():
    config = transformers.BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2)
    model = transformers.BloomForCausalLM(config).eval()
    with stream(model, Dense()):
        assert "attention" in unpackable(model)


def test_a_stream_of_another_model_is_refused(tiny_llama):
    one, other = stream(tiny_llama(), Dense()), stream(tiny_llama(seed=1), Dense())
    with pytest.raises(CapabilityError, match="another model"):
        read([(one, torch.tensor([1])), (other, torch.tensor([1]))])
