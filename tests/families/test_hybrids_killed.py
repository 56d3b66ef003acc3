"""Models with states of constant size, killed while they read and while they answer: opened again they go on right."""

from __future__ import annotations

import itertools
import os
import signal

import pytest
import torch

from everlong.models.load import Loaded
from everlong.session.session import Session
from tests.families.measure import TIGHT
from tests.families.test_hybrids import BLOCKS, TEXT
from tests.families.zoo import tiny

PIECE = 10
READ = TEXT[0, :60]
PROMPT = TEXT[0, 60:70]
WORDS = {"max_new_tokens": 8, "temperature": 0.0}


@pytest.fixture(scope="module", params=["Qwen3NextForCausalLM", "JambaForCausalLM"])
def loaded(request):
    return Loaded(tiny(request.param), None, request.param)


def read_on(session):
    """Read what is left of the text, with a checkpoint behind each piece."""
    for piece in READ[session.seen_tokens :].split(PIECE):
        session.feed(piece)
        session.checkpoint()


def answer(session):
    """The ids of an answer, which is kept, and the prediction behind it."""
    found = session.generate(PROMPT, **WORDS).token_ids
    session.checkpoint()
    return found, session.prediction


def killed(model, forward, work):
    """Do the work in a child that is killed in this forward of it: all layers have run, and nothing is committed."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    try:
        forwards = itertools.count(1)

        def strike(*_):
            if next(forwards) == forward:
                os.kill(os.getpid(), signal.SIGKILL)

        list(model.get_decoder().layers)[-1].register_forward_hook(strike)
        work()
    finally:
        os._exit(1)


@pytest.mark.parametrize("method", [TIGHT, BLOCKS], ids=["sinks", "blocks"])
def test_killed_while_it_reads_and_while_it_answers(loaded, method, tmp_path):
    with Session(loaded, method, 16, tmp_path / "calm", "one") as calm:
        read_on(calm)
        at_the_end = calm.prediction
        want, behind = answer(calm)

    def open_again():
        return Session.open(tmp_path / "killed", "one", loaded, 16)

    def go_on():
        with open_again() as session:
            read_on(session)
            answer(session)

    with Session(loaded, method, 16, tmp_path / "killed", "one") as session:
        session.feed(READ[:PIECE])
        session.checkpoint()
    seen = PIECE
    # Where single tokens carry the state, a forward is one token, and a piece is ten of them.
    for forward in (1, 2, 3):
        killed(loaded.model, forward, go_on)
        with open_again() as session:
            assert seen <= session.seen_tokens < len(READ)
            assert session.seen_tokens % PIECE == 0
            seen = session.seen_tokens
            twin = session.fork()
            twin.feed(READ[seen:])
            torch.testing.assert_close(twin.prediction, at_the_end, atol=1e-4, rtol=0)
            twin.close()
    with open_again() as session:
        read_on(session)
    for forward in (1, 4):
        killed(loaded.model, forward, go_on)
        with open_again() as session:
            assert session.seen_tokens == len(READ), "what was not acknowledged is not half there"
            torch.testing.assert_close(session.prediction, at_the_end, atol=1e-4, rtol=0)
    with open_again() as session:
        found, prediction = answer(session)
    assert found == want
    torch.testing.assert_close(prediction, behind, atol=1e-4, rtol=0)
