"""Files of a store that are gone: found by verify, made again from what is left, or given up and said so."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from everlong import Blocks, Session
from everlong.errors import DamagedError, InputError
from everlong.library import kept_text
from everlong.library.library import Library
from everlong.session.ingest import Document, read_document
from tests.session.conftest import TEXT
from tests.session.keeping import IDS, SMALL, answer, kept

BLOCKS = 26


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


@pytest.fixture(scope="module")
def kept_before(model, tmp_path_factory):
    """Gives the store of a session with these fields, and what it answers; each is made once."""
    made = {}

    def give(fields):
        if str(fields) not in made:
            store = tmp_path_factory.mktemp("store")
            with kept(model, store, **fields) as session:
                made[str(fields)] = store, answer(session.fork())
        return made[str(fields)]

    return give


def opened(model, store, name="one", **how):
    return Session.open(store, name, model, chunk=16, **how)


def verified(store, repair=False, name="one"):
    library = Library(store)
    return library.verify(library.entry(name), repair)


def is_whole(found):
    return not any(found[what] for what in found if what.startswith(("missing", "damaged")))


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "flipped"])
@pytest.mark.parametrize("fields", [{}, {"codec": "int8"}, {"cut": "surprise"}, {"digest": "mean"}], ids=str)
def test_digests_are_made_again_from_the_keys_of_their_blocks(model, tmp_path, kept_before, fields, how):
    store, expected = kept_before(fields)
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob("*.digests")
    whole = path.read_bytes()
    changed = {"cut": whole[: len(whole) // 2], "empty": b"", "flipped": bytes(b ^ 1 for b in whole)}
    path.unlink() if how == "gone" else path.write_bytes(changed[how])
    found = verified(tmp_path)
    assert found["missing_files"] == ([str(path)] if how == "gone" else [])
    assert found["damaged_blocks"] == []
    assert len(found["damaged_digests"]) > 10
    assert verified(tmp_path, repair=True)["damaged_digests"] == found["damaged_digests"]
    assert is_whole(verified(tmp_path))
    if fields in ({}, {"cut": "surprise"}):
        assert path.read_bytes() == whole
    with opened(model, tmp_path) as session:
        assert session.report().dropped_tokens == 0
        got = answer(session.fork())
        session.feed(IDS[150:200])
    if path.read_bytes()[: len(whole)] == whole:
        assert got == expected
    assert is_whole(verified(tmp_path))


@pytest.mark.parametrize("more", [[], ["digests"], ["digests", "recall"]])
def test_blocks_that_are_gone_are_dropped_and_the_session_opens(tiny, tmp_path, more):
    with Session(tiny, Blocks(**SMALL), 16, tmp_path, "one") as session:
        list(read_document(session, Document("a.txt", "1", [TEXT])))
        tokens, sealed = session.seen_tokens, session.stored("test").rows[0].sealed
    lost = [path for what in ("blocks", *more) for path in tmp_path.rglob(f"*.{what}")]
    for path in lost:
        path.unlink()
    found = verified(tmp_path)
    assert found["missing_files"] == sorted(map(str, lost))
    assert found["damaged_blocks"] == list(range(sealed))
    verified(tmp_path, repair=True)
    assert is_whole(verified(tmp_path))
    with opened(tiny, tmp_path) as session:
        assert session.seen_tokens == tokens
        assert session.report().dropped_tokens == sealed * 5
        assert session.ask("Who went home?", max_new_tokens=3).result.token_ids is not None
        list(read_document(session, Document("b.txt", "1", [TEXT])))
        assert answer(session.fork())
    assert is_whole(verified(tmp_path))
    with opened(tiny, tmp_path, read_only=True) as session:
        assert answer(session)


def test_a_file_that_a_fork_shares_is_mended_for_both(model, tmp_path):
    with kept(model, tmp_path):
        pass
    Library(tmp_path).fork("one", "two")
    with opened(model, tmp_path) as session:
        session.feed(IDS[150:250])
        expected = answer(session.fork())
    with opened(model, tmp_path, "two", read_only=True) as session:
        other = answer(session)
    for path in tmp_path.rglob("*.digests"):
        path.unlink()
    for name in ("two", "one"):
        verified(tmp_path, repair=True, name=name)
    assert is_whole(verified(tmp_path))
    with opened(model, tmp_path, read_only=True) as session:
        assert answer(session) == expected
    with opened(model, tmp_path, "two", read_only=True) as session:
        assert answer(session) == other


def lose_database(store):
    for path in store.glob("everlong.db*"):
        path.unlink()


def test_a_store_without_its_database_is_no_new_store(model, tmp_path):
    with kept(model, tmp_path, 70):
        pass
    lose_database(tmp_path)
    for work in (
        lambda: Library(tmp_path),
        lambda: Library(tmp_path, create=False),
        lambda: kept(model, tmp_path, name="two"),
        lambda: opened(model, tmp_path),
    ):
        with pytest.raises(DamagedError, match="everlong sessions adopt --store") as caught:
            work()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "everlong.db").exists()


def told(library):
    """All that is known of the sessions, but for where the blocks to come will lie."""
    found = {}
    for entry in library.entries():
        facts = {key: value for key, value in vars(entry).items() if key != "updated"}
        rows = (
            library.sources(entry),
            kept_text.lengths(library, entry),
            library.dropped(entry),
            library.pins(entry),
        )
        volumes = [v for v in library.volumes(entry) if v.end > v.first]
        found[entry.name] = (facts, *rows, library.forgotten(entry), volumes)
    return found


def test_adopted_sessions_are_as_their_last_checkpoints_left_them(tiny, tmp_path):
    store = tmp_path / "a store"
    with Session(tiny, Blocks(**SMALL), 16, store, "book") as session:
        list(read_document(session, Document("a.txt", "1", ["# One\n", TEXT, TEXT])))
        session.pin((40, 50))
        session.forget((60, 70))
    library = Library(store)
    library.fork("book", "twin")
    with Session.open(store, "twin", tiny, 16) as session:
        session.feed(TEXT)
    library.rename("twin", "other")
    library.compact("book")
    library.export("book", tmp_path / "book.tar")
    library.take(tmp_path / "book.tar", "third")
    library.fork("book", "fourth")
    expected, answers = told(library), {}
    for name in expected:
        with opened(tiny, store, name, read_only=True) as session:
            answers[name] = answer(session)
    lose_database(store)
    found = Library.adopted(store)
    assert {one.name: one.why_not for one in found} == dict.fromkeys(expected, "")
    library = Library(store)
    assert told(library) == expected
    for name, said in answers.items():
        assert is_whole(verified(store, name=name))
        with opened(tiny, store, name) as session:
            assert answer(session.fork()) == said
            assert session.pins
            session.feed(TEXT)
    for name in answers:
        assert is_whole(verified(store, name=name))
    assert Library.adopted(store) == []
    # Once more: what was written since is there too.
    expected = told(library)
    lose_database(store)
    Library.adopted(store)
    assert told(Library(store)) == expected


def test_adopting_beside_sessions_gives_a_free_name_and_leaves_what_it_cannot_read(model, tmp_path):
    with kept(model, tmp_path, 70):
        pass
    moved = tmp_path / "everlong.db"
    with sqlite3.connect(moved) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    moved.rename(tmp_path / "aside")
    lose_database(tmp_path)
    with pytest.raises(DamagedError):
        kept(model, tmp_path, 30)
    folder = next((tmp_path / "sessions").iterdir())
    shutil.move(folder, tmp_path / "hidden")
    with kept(model, tmp_path, 30):
        pass
    shutil.move(tmp_path / "hidden", folder)
    (found,) = Library.adopted(tmp_path)
    assert (found.name, found.tokens) == ("one-2", 70)
    (folder / "catalog").write_bytes(b"00000000{}")
    with sqlite3.connect(tmp_path / "everlong.db") as db:
        db.execute("DELETE FROM sessions WHERE name = 'one-2'")
    (found,) = Library.adopted(tmp_path)
    assert found.name is None
    assert "not what was written" in found.why_not
    (folder / "catalog").unlink()
    assert "versions before this one wrote none" in Library.adopted(tmp_path)[0].why_not
    with pytest.raises(InputError, match="holds no folders of sessions"):
        Library.adopted(tmp_path / "sessions")
