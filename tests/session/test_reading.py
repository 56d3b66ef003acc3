"""Reading that is cut off: what was read is kept, and reading goes on as if it had never stopped."""

from __future__ import annotations

import pytest

from everlong import Blocks, Session
from everlong.cli.cut_off import Stop
from everlong.library.library import Library
from everlong.models.load import Loaded
from everlong.session import ingest as reading
from everlong.session import rebuild as rereading
from everlong.session.ingest import Document, read_document
from tests.session.conftest import TEXT
from tests.session.keeping import SMALL, answer, kept

BOOK = "# One\n" + TEXT + "# Two\n" + TEXT


def document():
    return Document("a.txt", "1", [BOOK])


def opened(loaded, store):
    exists = (store / "everlong.db").exists()
    return Session.open(store, "one", loaded, 16) if exists else Session(loaded, Blocks(**SMALL), 16, store, "one")


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_what_was_read_is_kept_where_the_iterator_is_left(tiny, tmp_path, steps):
    for chunks in (steps, steps, None):
        session = opened(tiny, tmp_path)
        before, found = session.seen_tokens, read_document(session, document())
        for n, _ in enumerate(found, 1):
            if n == chunks:
                found.close()
                break
        assert session.seen_tokens > before
        if chunks is None:
            session.checkpoint()
        session.close()
    with Session.open(tmp_path, "one", tiny, 16, read_only=True) as session:
        got, ids = answer(session), session.transcript.ids.tolist()
        assert [(s.name, s.done) for s in session.transcript.sources][:1] == [("a.txt", True)]
    with Session(tiny, Blocks(**SMALL), 16) as session:
        list(read_document(session, document(), 10**6))
        assert session.transcript.ids.tolist() == ids[: session.seen_tokens]
        assert answer(session) == got


def test_a_checkpoint_is_made_every_few_seconds(tiny, tmp_path, monkeypatch):
    with opened(tiny, tmp_path) as session:
        for n, _ in enumerate(read_document(session, document())):
            assert (Library(tmp_path).entry("one").tokens == session.seen_tokens) == (n % 3 == 2)
            monkeypatch.setattr(reading, "CHECKPOINT_S", 0.0 if n % 3 == 1 else 3600.0)


def test_a_reread_that_is_cut_off_is_kept(tiny_llama, tmp_path):
    loaded = Loaded(tiny_llama(), None, "tiny")
    kept(loaded, tmp_path).close()
    steps = rereading.reread(Library(tmp_path), "one", loaded, 16, [])
    next(steps)
    next(steps)
    steps.close()
    assert rereading.kept_so_far(Library(tmp_path), "one") == 32
    assert [*rereading.reread(Library(tmp_path), "one", loaded, 16, [])][-1].tokens == 150


def test_an_interrupt_waits_for_the_chunk_and_the_second_one_does_not(capsys):
    import os
    import signal

    done = []

    def steps(often):
        try:
            for n in range(9):
                for _ in range(often if n == 4 else 0):
                    os.kill(os.getpid(), signal.SIGINT)
                done.append(n)
                yield n
        except GeneratorExit:
            done.append("kept")

    for often, expected in ((1, [0, 1, 2, 3, 4, "kept"]), (2, [0, 1, 2, 3])):
        done.clear()
        with pytest.raises(KeyboardInterrupt), Stop() as stop:
            stop.through(steps(often), lambda step: None)
        assert done == expected
    assert "once more to stop at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
