"""What a session reads between two checkpoints outlives a crash: noted down, cut anywhere, read again as it was."""

from __future__ import annotations

import shutil

import pytest
import torch

from everlong import Blocks, Session, Sinks
from everlong.errors import SessionError
from everlong.library.journal import JOURNAL, Journal
from everlong.library.library import Library

SMALL = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "repr_topk": 4, "exec_chunk": 32, "pool": 8}
METHODS = [Sinks(sinks=3, window=20), Blocks(**SMALL)]
TURNS = [
    [("prompt", list(range(3, 40))), ("answer", [5, 6, 7]), ("text", [1, 2])],
    [("text", list(range(40, 60))), ("answer", [9, 8, 9]), ("text", [1])],
    [("prompt", list(range(60, 70))), ("answer", [4]), ("text", [2, 1])],
]


def read(session, runs):
    """Read as a turn does: a prompt, its answer token by token, what ends it."""
    for kind, ids in runs:
        if kind == "prompt":
            session.read_prompt(ids)
        elif kind == "text":
            session.feed(ids, source="prompt")
        else:
            for token in ids:
                session.feed([token], answering=True, source="answer")
    session.conversing = True


def keep(session, n):
    read(session, TURNS[n])
    session.keeping.note_reading(TURNS[n], {"turn": n})()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_was_noted_is_read_again_as_it_was(tiny_llama, tmp_path, method):
    model = tiny_llama()
    with Session(model, method) as alone:
        for runs in TURNS:
            read(alone, runs)
        expected = alone.prediction
        sources = [(s.name, s.first) for s in alone.transcript.sources]
    session = Session(model, method, store=tmp_path, name="a")
    keep(session, 0)
    session.checkpoint()
    assert session.keeping.notes == []
    keep(session, 1)
    keep(session, 2)
    assert [note["turn"] for _, note in session.keeping.notes] == [1, 2]
    session.close()  # as a killed process: without a checkpoint
    for read_only in (True, False):
        with Session.open(tmp_path, "a", model, chunk=7, read_only=read_only) as again:
            assert again.seen_tokens == sum(len(ids) for runs in TURNS for _, ids in runs)
            assert again.conversing
            assert [(s.name, s.first) for s in again.transcript.sources][: len(sources)] == sources
            torch.testing.assert_close(again.prediction, expected, atol=1e-4, rtol=1e-4)
    # The end of the `with` block made a checkpoint, which has it all.
    with Session.open(tmp_path, "a", model) as again:
        assert again.keeping.notes == []
        assert again.keeping.tokens == again.seen_tokens


def test_a_journal_that_is_cut_anywhere_gives_whole_records(tiny_llama, tmp_path):
    model = tiny_llama()
    method = METHODS[0]
    session = Session(model, method, store=tmp_path, name="a")
    lengths = [0]
    sizes = [0]
    path = Library(tmp_path).place(Library(tmp_path).entry("a")) / JOURNAL
    for n in range(3):
        keep(session, n)
        lengths.append(session.seen_tokens)
        sizes.append(path.stat().st_size)
    session.close()
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut] + b"\xff" * (cut % 3))
        assert len(Journal(path, 0).records) == max(n for n, size in enumerate(sizes) if size <= cut)
    # It goes on behind the last whole record, whatever stood there.
    path.write_bytes(data[: sizes[2] + 11])
    again = Session.open(tmp_path, "a", model)
    assert again.seen_tokens == lengths[2]
    keep(again, 0)
    again.close()
    with Session.open(tmp_path, "a", model, read_only=True) as again:
        assert [note["turn"] for _, note in again.keeping.notes] == [0, 1, 0]


def test_other_tokens_than_those_that_were_read_are_refused(tiny_llama, tmp_path):
    with Session(tiny_llama(), METHODS[0], store=tmp_path) as session:
        read(session, TURNS[0])
        with pytest.raises(SessionError, match="read other tokens"):
            session.keeping.note_reading(TURNS[1])
        session.keeping.note_reading(TURNS[0])()
    with Session(tiny_llama(), METHODS[0]) as session, pytest.raises(SessionError, match="has no store"):
        session.keeping.note_reading([])


def test_a_journal_of_before_a_checkpoint_is_passed_over(tiny_llama, tmp_path):
    model = tiny_llama()
    session = Session(model, METHODS[0], store=tmp_path, name="a")
    keep(session, 0)
    path = Library(tmp_path).place(Library(tmp_path).entry("a")) / JOURNAL
    shutil.copy(path, tmp_path / "copy")
    session.checkpoint()
    session.close()
    shutil.copy(tmp_path / "copy", path)  # as if a crash had come before it was emptied
    with Session.open(tmp_path, "a", model) as again:
        assert (again.keeping.notes, again.seen_tokens) == ([], sum(len(ids) for _, ids in TURNS[0]))
    assert path.stat().st_size == 0


def test_forks_and_archives_have_the_journal_too(tiny_llama, tmp_path):
    model = tiny_llama()
    session = Session(model, METHODS[1], store=tmp_path, name="a")
    read(session, TURNS[0])
    session.checkpoint()
    keep(session, 1)
    seen = session.seen_tokens
    session.close()
    library = Library(tmp_path)
    library.fork("a", "b")
    library.export("a", tmp_path / "a.tar")
    library.take(tmp_path / "a.tar", "c")
    for name in ("a", "b", "c"):
        with Session.open(tmp_path, name, model) as again:
            assert again.seen_tokens == seen
