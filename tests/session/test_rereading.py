"""A session built anew equals one that never read what was forgotten, also when it was interrupted on the way."""

from __future__ import annotations

import pytest

from everlong import Blocks, Session
from everlong.errors import InputError, SessionError
from everlong.library.library import Library
from everlong.models.load import Loaded
from everlong.session import rebuild as rereading
from everlong.session.ingest import Document, read_document
from everlong.text.transcript import TokenRange
from tests.session.keeping import IDS, SMALL, answer, kept
from tests.session.test_forget import wiped


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def run(store, model, spans, documents=()):
    loaded = model if isinstance(model, Loaded) else Loaded(model, None, "tiny")
    return [*rereading.reread(Library(store), "one", loaded, 16, [TokenRange(*s) for s in spans], documents)][-1]


@pytest.mark.parametrize("spans", [[(40, 51)], [(0, 9), (140, 150)]])
def test_it_equals_a_session_that_never_read_the_span(model, tmp_path, spans):
    with kept(model, tmp_path) as session:
        session.pin((60, 62))
    left = [i for n, i in enumerate(IDS[:150]) if not any(a <= n < b for a, b in spans)]
    done = run(tmp_path, model, spans)
    shift = sum(b - a for a, b in spans if b <= 60)
    assert (done.tokens, done.lost_pins) == (len(left), 0)
    assert [e.name for e in Library(tmp_path).entries()] == ["one"]
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.transcript.ids.tolist() == left
        assert [(p.first, p.end) for p in session.pins] == [(60 - shift, 62 - shift)]
        session.unpin((0, 100))
        got = answer(session.fork())
    with Session(model, Blocks(**SMALL), chunk=16) as session:
        session.feed(left)
        session.pin((60 - shift, 62 - shift))
        session.unpin((0, 100))
        assert got == answer(session)


def test_what_was_asked_and_answered_is_read_as_it_was(model, tmp_path):
    with kept(model, tmp_path) as session:
        session.generate(IDS[150:190], max_new_tokens=12)
        session.feed(IDS[190:220])
        ids = session.transcript.ids.tolist()
        sources = [(s.name, s.first) for s in session.transcript.sources]
    run(tmp_path, model, [(40, 51)])
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.transcript.ids.tolist() == ids[:40] + ids[51:]
        assert [(s.name, s.first) for s in session.transcript.sources][-3:] == [(n, at - 11) for n, at in sources[1:]]
        got = session.prediction
        with Session(model, Blocks(**SMALL), chunk=16) as other:
            other.feed(ids[:40] + ids[51:150])
            for first, end, answering in ((150, 190, True), (190, 202, True), (202, len(ids), False)):
                other.feed(ids[first:end], answering=answering)
            assert (other.prediction - got).abs().max() < 1e-4


def test_forgotten_before_and_damaged_now(model, tmp_path):
    """What was forgotten in place stays out; what was dropped as damaged comes back."""
    with kept(model, tmp_path) as session:
        session.forget((40, 51))
        session.drop_blocks([15])
    run(tmp_path, model, [(60, 62)])
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.transcript.ids.tolist() == IDS[:40] + IDS[51:60] + IDS[62:150]
        assert session.report().dropped_tokens == 0


def test_it_goes_on_after_an_interrupt(model, tmp_path, monkeypatch):
    with kept(model, tmp_path):
        pass
    Library(tmp_path).fork("one", "twin")
    monkeypatch.setattr(rereading, "CHECKPOINT_TOKENS", 20)
    steps = rereading.reread(Library(tmp_path), "one", Loaded(model, None, "tiny"), 16, [TokenRange(40, 51)])
    for done in steps:
        if done.tokens >= 60:
            steps.close()
    with Session.open(tmp_path, "one~reread", model, chunk=16, read_only=True) as session:
        assert 40 <= session.seen_tokens <= 80
    with pytest.raises(SessionError, match="begun by a reread of other spans"):
        run(tmp_path, model, [(40, 52)])
    got = run(tmp_path, model, [(40, 51)])
    assert got.tokens == 139
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.transcript.ids.tolist() == IDS[:40] + IDS[51:150]
        assert [(s.name, s.first) for s in session.transcript.sources] == [("text", 0), ("text", 40)]
        one = answer(session.fork())
    assert wiped(tmp_path, "twin") == []
    with Session(model, Blocks(**SMALL), chunk=16) as session:
        session.feed(IDS[:40] + IDS[51:150])
        assert one == answer(session)


def test_a_crash_between_the_names_and_the_deletion(model, tmp_path, monkeypatch):
    with kept(model, tmp_path):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(Library, "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, model, [(40, 51)])
    assert [e.name for e in Library(tmp_path).entries()] == ["one", "one~old"]
    assert run(tmp_path, model, [(20, 30)]).tokens == 129
    assert [e.name for e in Library(tmp_path).entries()] == ["one"]
    assert len(list((tmp_path / "sessions").iterdir())) == 1


def test_changed_documents_take_their_place(tiny, tmp_path):
    texts = {
        "a.txt": "The tide rose. " * 30,
        "b.txt": "Gulls cried over the harbour. " * 20,
        "c.txt": "Nobody knew. " * 25,
    }

    def documents(**new):
        return [Document(name, text, [text]) for name, text in (texts | new).items()]

    def read(store, found):
        with Session(tiny, Blocks(**SMALL), chunk=16, store=store, name="one") as session:
            for document in found:
                list(read_document(session, document))

    read(tmp_path / "old", documents())
    changed = {"b.txt": "It went home. " * 40}
    run(tmp_path / "old", tiny, [], documents(**changed)[1:2])
    read(tmp_path / "new", documents(**changed))
    answers, sources = [], []
    for name in ("old", "new"):
        with Session.open(tmp_path / name, "one", tiny, chunk=16) as session:
            sources.append([(s.name, s.first, s.digest, s.done, s.marks) for s in session.transcript.sources])
            answers.append((session.transcript.ids.tolist(), answer(session.fork())))
    assert sources[0] == sources[1]
    assert answers[0] == answers[1]


def test_a_part_of_a_source_leaves_the_characters_of_the_rest(tiny, tmp_path):
    text = "The tide rose and the tide fell. " * 12 + "The key is 71432. " + "Nobody knew, nobody cared. " * 12
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path, name="one") as session:
        list(read_document(session, Document("a.txt", "1", [text])))
        at = text.index("The key")
        first, end = session.transcript.tokens_of(session.transcript.sources[0], at, at + 18)
        want = session.transcript.passages(end + 3, end + 30)[0]
    run(tmp_path, tiny, [(first, end)])
    with Session.open(tmp_path, "one", tiny, chunk=16) as session:
        assert "71432" not in session.transcript.text(0, session.seen_tokens)
        got = session.transcript.passages(first + 3, first + 30)[0]
        assert (got.source, got.text, text[got.start : got.end]) == (want.source, want.text, want.text)
        assert [s.done for s in session.transcript.sources] == [True, True]
        with pytest.raises(InputError, match="does not exist"):
            run(tmp_path / "none", tiny, [])
