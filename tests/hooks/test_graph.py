"""A decoder's forward over one token as a CUDA graph: the same numbers as by its modules (here by the interpreter)."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong.engine import batch
from everlong.engine.stream import StreamPiece, TokenStream
from everlong.hooks import patch
from everlong.hooks.program.graph import GraphProgram
from everlong.hooks.program.switch import switch_of
from everlong.models.load import Loaded
from everlong.ops.gpu import token_attention
from everlong.ops.token_tables import TokenTables
from tests.ops.gpu_or_interpreter import device  # noqa: F401

pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton's interpreter
    pytest.mark.heavy(reason="by Triton's interpreter a kernel takes a thousand times as long as on a GPU"),
]
IDS = torch.randint(97, (140,), generator=torch.Generator().manual_seed(3))
METHODS = {
    "dense": everlong.Dense(),
    "sinks": everlong.Sinks(window=24, sinks=4),
    "window": everlong.Window(window=24),
    "blocks": everlong.Blocks(sinks=4, window=24, block=8, top_k=2, exec_chunk=32, pool=8, recall="layer"),
}


def written(model, method, tokens=20):
    """The predictions behind each of the last tokens, one at a time, and what is cited."""
    with everlong.Session(model, method, chunk=32) as session:
        session.feed(IDS[:-tokens])
        found = []
        for token in IDS[-tokens:].tolist():
            session.feed([token], answering=True)
            found.append(session.prediction.cpu())
        blocks = session.runner.blocks
        return torch.stack(found), {} if blocks is None else dict(blocks.rows[0].done.cited)


@pytest.fixture
def runs(monkeypatch):
    """How many tokens graphs ran, each time that one was asked."""
    found = []
    run = GraphProgram.run

    def counted(self, steps, inputs):
        hidden = run(self, steps, inputs)
        found.append(0 if hidden is None else len(steps))
        return hidden

    monkeypatch.setattr(GraphProgram, "run", counted)
    return found


@pytest.mark.parametrize("pieces", [64, 3], ids=["small pieces", "few pieces"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gives_what_the_modules_give(tiny_llama, device, monkeypatch, runs, method, pieces):  # noqa: F811
    model = tiny_llama(hidden_size=64, num_hidden_layers=2).to(device)
    monkeypatch.setattr(token_attention, "PIECES", 64 if pieces == 64 else 16)
    monkeypatch.setattr(token_attention, "LEAST_PIECE", 8)
    found, cited = written(model, method)
    assert switch_of(model.model).reason is None
    assert sum(runs) >= 15
    monkeypatch.setattr(patch, "runs_from_list", lambda *args: False)
    expected, cited_by_modules = written(model, method)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert cited == pytest.approx(cited_by_modules, abs=1e-4)


def test_positions_far_beyond_a_frame(tiny_llama, device, monkeypatch, runs):  # noqa: F811
    """Keys of an older frame and sinks are met by turned queries."""
    model = tiny_llama(hidden_size=64, num_hidden_layers=2, max_position_embeddings=64).to(device)
    found, _ = written(model, METHODS["sinks"], tokens=60)
    assert sum(runs) >= 55
    monkeypatch.setattr(patch, "runs_from_list", lambda *args: False)
    torch.testing.assert_close(found, written(model, METHODS["sinks"], tokens=60)[0], atol=2e-4, rtol=0)


def test_streams_of_different_methods_at_once(tiny_llama, device, runs):  # noqa: F811
    model = tiny_llama(hidden_size=64, num_hidden_layers=2).to(device)
    many, alone = ([TokenStream(Loaded(model, None, "m"), m, 32) for m in METHODS.values()] for _ in range(2))
    for streams in (many, alone):
        for n, stream in enumerate(streams):
            stream.feed(IDS[: 60 + 7 * n])
    runs.clear()
    for token in IDS[80:90]:
        batch.read([StreamPiece(stream, token[None], answering=True) for stream in many])
        for one, stream in zip(alone, many, strict=True):
            one.feed(token[None], answering=True)
            torch.testing.assert_close(stream.prediction, one.prediction, atol=2e-4, rtol=0)
    assert runs.count(4) >= 8
    for stream in (*many, *alone):
        stream.close()


@pytest.mark.parametrize(("runs", "expected"), [(60, True), (70, False)])
def test_a_token_of_more_runs_than_pieces_is_left_to_the_modules(runs, expected):
    tables = TokenTables.empty(2, 2)
    tables.ranges[1, 0, 3:5] = 4 * runs, runs
    tables.ranges[1, 1, 3:5] = 100, 1
    assert token_attention.fits(tables) is expected
