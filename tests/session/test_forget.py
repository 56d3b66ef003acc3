"""Pins and forgetting in kept sessions: what is pinned stays so, what is forgotten cannot be read by anyone."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks, Session
from everlong.errors import CapabilityError, ConfigError, DamagedError, InputError
from everlong.library import erase as erasing
from everlong.library.library import Library
from tests.session.keeping import IDS, SMALL, answer, kept

SPAN = (40, 51)
"""Tokens of the blocks 7 (38 to 42), 8 and 9 (48 to 52): five tokens of their neighbours go with them."""


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def reopened(model, store, name="one"):
    with Session.open(store, name, model, chunk=16, read_only=True) as session:
        return answer(session)


def rows(store, name="one"):
    """The bytes of every stored block of a session, by its number."""
    library = Library(store)
    entry = library.entry(name)
    found = {}
    for v in (v for v in library.volumes(entry) if v.path.exists()):
        data, width = v.path.read_bytes(), entry.row_bytes
        digests = v.digests.read_bytes()
        each = len(digests) // max(1, len(data) // width)
        for n in range(v.first, v.end):
            at = v.at + n - v.first
            found[n] = data[at * width : (at + 1) * width], digests[at * each : (at + 1) * each]
    return found


def wiped(store, name="one"):
    return [n for n, (data, digests) in rows(store, name).items() if not any(data) and not any(digests)]


def test_pins_are_kept_with_the_session_and_its_forks(model, tmp_path):
    with kept(model, tmp_path) as session:
        pin = session.pin((40, 42))
        session.pin((145, 150), always=False)
        live = answer(session.fork())
    library = Library(tmp_path)
    library.fork("one", "two")
    for name in ("one", "two"):
        with Session.open(tmp_path, name, model, chunk=16) as session:
            assert session.pins[0] == pin
            assert [(p.first, p.end, p.always, p.keep) for p in session.pins] == [
                (40, 42, True, True),
                (145, 150, False, True),
            ]
            assert library.pins(library.entry(name))[1] == {"first": 145, "end": 150, "always": False, "keep": True}
            assert answer(session.fork()) == live
            session.feed(IDS[150:200])
            memory = session.stored("test")
            assert all(7 in p.now.chosen[0].tolist() for p in memory.rows[0].layers.values())
            assert memory.rows[0].kept == {7, 28, 29}
            assert session.unpin((0, 200)) == 2
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.pins == ()


def test_pins_travel_in_a_saved_file(model, tmp_path):
    with Session(model, Blocks(**SMALL), chunk=16) as session:
        session.feed(IDS[:150])
        session.pin((40, 42))
        session.forget((60, 70))
        path = session.save(tmp_path / "one.session")
        with Session.load(path, model, chunk=16) as loaded:
            assert loaded.pins == session.pins
            assert loaded.report().dropped_tokens == session.report().dropped_tokens == 15
            records = loaded.stored("test").rows[0].store.records(0, 20)
            assert [n for n in range(20) if not records[n].any()] == [11, 12, 13]
            assert answer(loaded) == answer(session)


def test_a_forgotten_span_is_dropped_overwritten_and_never_cited(model, tmp_path):
    with kept(model, tmp_path) as session:
        session.pin((40, 42))
        found = session.forget(SPAN)
        assert (found.tokens, found.blocks, found.neighbour_tokens, found.shared_blocks) == (11, 3, 4, 0)
        assert session.pins == ()
        live = answer(session.fork())
        assert session.transcript.ids[40:51].tolist() == [0] * 11
        assert session.recent.ids()[40:51].tolist() == [0] * 11
        with pytest.raises(DamagedError, match="block 8 of layer 0 was dropped"):
            session.stored("test").rows[0].store.record(0, 8)
    assert wiped(tmp_path) == [7, 8, 9]
    ids = next(tmp_path.rglob("ids")).read_bytes()
    assert ids[160:204] == bytes(44)
    assert ids[204:208] != bytes(4)
    assert reopened(model, tmp_path) == live
    library = Library(tmp_path)
    assert library.verify(library.entry("one"))["damaged_blocks"] == []
    with Session.open(tmp_path, "one", model, chunk=16, read_only=True) as session:
        answer(session)
        assert not {7, 8, 9} & set(session.stored("test").rows[0].done.cited)
        assert session.report().dropped_tokens == 15


def test_no_file_holds_a_forgotten_span_any_more(model, tmp_path):
    """The ids 40 to 50 are found in the files before, in no order of bytes after."""
    secret = torch.tensor(IDS[40:51], dtype=torch.int32).numpy().tobytes()
    wide = torch.tensor(IDS[40:51]).numpy().tobytes()

    def found():
        data = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
        return sum(secret in x or wide in x for x in data)

    with kept(model, tmp_path) as session:
        session.feed(IDS[150:170])
        session.checkpoint()
        before = rows(tmp_path)
        assert found() >= 3
        session.forget(SPAN)
    assert found() == 0
    stored = b"".join(p.read_bytes() for p in (tmp_path / "blocks").iterdir())
    assert all(before[n][0] not in stored and before[n][1] not in stored for n in (7, 8, 9))


def test_a_fork_keeps_its_own_until_it_is_deleted(model, tmp_path):
    with kept(model, tmp_path):
        pass
    library = Library(tmp_path)
    library.fork("one", "two")
    expected = reopened(model, tmp_path, "two")
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.forget(SPAN).shared_blocks == 3
        with pytest.raises(DamagedError, match="was dropped"):
            session.stored("test").rows[0].store.record(1, 7)
    assert wiped(tmp_path) == []
    assert reopened(model, tmp_path, "two") == expected
    library.export("one", tmp_path / "one.tar")
    library.take(tmp_path / "one.tar", "three")
    assert wiped(tmp_path, "three") == [7, 8, 9]
    assert reopened(model, tmp_path, "three") == reopened(model, tmp_path)
    library.delete("two")
    assert wiped(tmp_path) == [7, 8, 9]
    assert library.verify(library.entry("one"))["damaged_blocks"] == []


def test_the_last_of_the_forks_to_forget_overwrites(model, tmp_path):
    with kept(model, tmp_path):
        pass
    Library(tmp_path).fork("one", "two")
    for name, left in (("one", 3), ("two", 0)):
        with Session.open(tmp_path, name, model, chunk=16) as session:
            assert session.forget(SPAN).shared_blocks == left
    assert wiped(tmp_path) == [7, 8, 9]


@pytest.mark.parametrize("crash", ["wipe_files", "overwrite", "remove_states"])
def test_a_crash_while_overwriting_is_made_good(model, tmp_path, monkeypatch, crash):
    def killed(*args):
        raise KeyboardInterrupt

    session = kept(model, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(erasing, crash, killed)
        with pytest.raises(KeyboardInterrupt):
            session.forget(SPAN)
    session.close()
    with Session.open(tmp_path, "one", model, chunk=16, read_only=True) as session:
        assert session.transcript.ids[40:51].tolist() == [0] * 11
        expected = answer(session)
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert answer(session.fork()) == expected
    assert wiped(tmp_path) == [7, 8, 9]
    assert next(tmp_path.rglob("ids")).read_bytes()[160:204] == bytes(44)


@pytest.mark.parametrize("span", [(1, 20), (100, 130), (148, 150)])
def test_what_is_not_in_stored_blocks_alone_needs_a_reread(model, tmp_path, span):
    with kept(model, tmp_path) as session, pytest.raises(CapabilityError, match="forget them with --reread") as caught:
        session.forget(span)
    assert "\n" not in str(caught.value)


def test_spans_are_checked(model, tmp_path):
    with kept(model, tmp_path) as session:
        with pytest.raises(InputError, match="tokens 9:300: expected a start and a later end in 0:150"):
            session.pin((9, 300))
        with pytest.raises(InputError, match="was not read into this session"):
            session.forget("nothing")
        with pytest.raises(ConfigError, match="top_k=3 have room"):
            session.pin((3, 40))
        with pytest.raises(CapabilityError, match="no tokenizer"):
            session.pin("text", 3, 9)


@pytest.mark.heavy(reason="characters and tokens meet in the default model's own tokenizer and text")
def test_sources_and_characters(smollm2, tmp_path):
    filler = "The grass is green. The sky is blue. " * 12
    text = f"{filler}Señor Ōe's pass key is 71432 🙂. Remember it. {filler}"
    method = Blocks(sinks=4, window=48, block=8, top_k=4, exec_chunk=32, pool=8, codec="native")
    with Session(smollm2, method, store=tmp_path, name="keys") as session:
        session.feed("A preface of another kind.\n", source="preface.txt")
        session.feed(text, source="keys.txt")
        session.feed(filler, source="more.txt")
        at = text.index("🙂")
        pin = session.pin("keys.txt", text.index("71432"), at + 1)
        first, end = pin.first, pin.end
        assert session.transcript.text(first, end).strip() == "71432 🙂"
        passage = session.transcript.passages(end, end + 9)[0]
        found = session.forget("keys.txt", text.index("Señor"), at + 1)
        assert found.neighbour_tokens > 0
        assert "71432" not in session.transcript.text(0, session.seen_tokens)
        assert session.transcript.passages(end, end + 9)[0] == passage
        with pytest.raises(InputError, match="characters 5:99999, expected"):
            session.pin("keys.txt", 5, 99999)
        session.forget("keys.txt")
        with pytest.raises(InputError, match=r"was not read into this session, or is forgotten; did you mean"):
            session.forget("keys.txt")
        session.generate(" The pass key is", max_new_tokens=4)
        assert {c.source for c in session.citations(99)} <= {"preface.txt", "more.txt", "prompt"}
