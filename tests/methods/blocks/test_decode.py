"""One token in the middle of a retrieval chunk, with what layers share worked out once: the same as layer by layer."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import everlong
from everlong.methods.blocks import memory
from everlong.methods.blocks.decode import TokenRun

IDS = torch.randint(97, (260,), generator=torch.Generator().manual_seed(3))
SMALL = {"sinks": 3, "window": 24, "block": 5, "top_k": 3, "exec_chunk": 16, "pool": 6, "recall": "layer"}
SMALL |= {"codec": "native"}  # in eight bits the smallest difference may round a key to the next number


@pytest.fixture(scope="module", params=[32, 64], ids=["attention in torch", "attention in the list"])
def model(tiny_llama, request):
    fields = {"num_hidden_layers": 2, "max_position_embeddings": 64, "initializer_range": 0.3}
    return tiny_llama(hidden_size=request.param, **fields)


def written(model, method):
    """The prediction behind each of 100 answering and 30 reading tokens, one at a time, and what was cited."""
    with everlong.Session(model, method, chunk=32) as session:
        session.feed(IDS[:130])
        found = []
        for n, token in enumerate(IDS[130:].tolist()):
            session.feed([token], answering=n < 100)
            found.append(session.prediction)
            if n == 40:
                twin = session.fork()
        cited = dict(session.stored("cited").rows[0].done.cited)
        with twin:
            twin.feed(IDS[171:180], answering=True)
            found.append(twin.prediction)
        return torch.stack(found), cited


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"positions": "true"},
        {"per_head": True},
        {"choose_every": 3, "sinks": 0},
        {"top_k": 1},
        {"choose_every": 20, "pool": 40},
    ],
    ids=str,
)
def test_equals_what_layers_compute_each_for_itself(model, monkeypatch, fields):
    method = everlong.Blocks(**(SMALL | fields))
    steps = []
    for name in ("attend", "fill"):
        own = getattr(TokenRun, name)
        monkeypatch.setattr(TokenRun, name, lambda self, *args, own=own: (steps.append(self), own(self, *args))[1])
    found, cited = written(model, method)
    assert len(steps) > 70
    monkeypatch.setattr(memory, "token_run", lambda *args: None)
    expected, expected_cited = written(model, method)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert cited.keys() == expected_cited.keys()
    assert all(cited[n] == pytest.approx(expected_cited[n], rel=1e-4) for n in cited)


def test_the_newest_queries_are_those_of_their_tokens(model, monkeypatch):
    """They are written behind one another, and copied where there is no room behind them."""
    with everlong.Session(model, everlong.Blocks(**SMALL), chunk=32) as session:
        session.feed(IDS[:130])
        with monkeypatch.context() as context, session.fork() as slow:
            context.setattr(memory, "token_run", lambda *args: None)
            for token in IDS[130:150].tolist():
                slow.feed([token], answering=True)
            expected = slow.stored("queries").rows[0].layers[1].now.queries.clone()
        for token in IDS[130:150].tolist():
            session.feed([token], answering=True)
        kept = session.stored("queries").rows[0].layers[1].now.queries
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=0)
        twin = session.fork()
        theirs = twin.stored("queries").rows[0].layers[1].now.queries.clone()
        session.feed([1, 2, 3], answering=True)
        with twin:
            assert torch.equal(twin.stored("queries").rows[0].layers[1].now.queries, theirs)


@contextmanager
def _session(model, monkeypatch, chunk, runs):
    """A session that computes tokens in runs, or each by itself."""
    with monkeypatch.context() as context, everlong.Session(model, everlong.Blocks(**SMALL), chunk=chunk) as session:
        if not runs:
            context.setattr(memory, "token_run", lambda *args: None)
        yield session


def _goes_on(session, tokens):
    found = []
    for token in tokens:
        session.feed([token], answering=True)
        found.append(session.prediction)
    return torch.stack(found)


@pytest.mark.parametrize("meanwhile", ["pin", "text", "error", "drop"])
def test_a_run_ends_where_anything_else_happens_to_its_stream(model, monkeypatch, meanwhile):
    """A pin, other text, a step that fails and a block that is dropped, each in the middle of a chunk."""

    def interrupted(*args):
        raise KeyboardInterrupt

    def happens(session):
        if meanwhile == "pin":
            session.pin((20, 24))
        elif meanwhile == "text":
            session.feed(IDS[:3])
        elif meanwhile == "drop":
            session.stored("drop").rows[0].drop([2])
        else:
            with monkeypatch.context() as context:
                context.setattr(memory.TokenRun, "commit", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    session.feed([9], answering=True)

    results = []
    for runs in (True, False):
        with _session(model, monkeypatch, chunk=32, runs=runs) as session:
            session.feed(IDS[:130])
            before = _goes_on(session, IDS[130:134].tolist())
            if runs or meanwhile != "error":
                happens(session)
            results.append(torch.cat([before, _goes_on(session, IDS[134:152].tolist())]))
    torch.testing.assert_close(*results, atol=1e-5 * float(results[1].abs().max()), rtol=0)


def test_frames_begin_in_the_middle_of_a_run(model, monkeypatch):
    """Positions pass the trained length of 64 again and again, and keys of older frames are met by turned queries."""
    ids = torch.randint(97, (400,), generator=torch.Generator().manual_seed(5))
    results = []
    for runs in (True, False):
        with _session(model, monkeypatch, chunk=8, runs=runs) as session:
            session.feed(ids[:60])
            results.append(_goes_on(session, ids[60:260].tolist()))
    torch.testing.assert_close(*results, atol=1e-5 * float(results[1].abs().max()), rtol=0)
