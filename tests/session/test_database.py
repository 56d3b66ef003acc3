"""The database of a store: made by several at once, read where nothing may be written, of this format or the last."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from everlong import Session
from everlong.errors import ForeignError, InputError, SaveError, SessionError
from everlong.library.library import Library
from tests.session.keeping import answer, kept
from tests.session.test_faults import NOBODY, in_a_child

AT_ONCE = 6


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def at_once(work):
    """What `work(n)` says in several processes that begin it at the same time."""
    waiting, start = os.pipe()
    readers = []
    for n in range(AT_ONCE):
        reading, writing = os.pipe()
        if not os.fork():
            try:
                os.close(start)
                os.read(waiting, 1)
                os.write(writing, str(work(n)).encode())
            except BaseException as error:  # noqa: BLE001 (told to the parent)
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(writing)
        readers.append(reading)
    os.close(start)
    said = []
    for reading in readers:
        with open(reading, "rb") as pipe:  # noqa: PTH123 (a descriptor)
            said.append(pipe.read().decode())
        os.wait()
    os.close(waiting)
    return said


@pytest.mark.parametrize("time", range(3))
def test_processes_that_first_open_the_same_store_all_succeed(tmp_path, time):
    folder = tmp_path / "store"
    assert at_once(lambda n: Library(folder).create(f"s{n}", "m", {}, {}).name) == [f"s{n}" for n in range(AT_ONCE)]
    assert len(Library(folder).entries()) == AT_ONCE
    with sqlite3.connect(folder / "everlong.db") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_of_processes_that_take_the_same_name_one_gets_it(tmp_path):
    def work(n):
        return Library(tmp_path).create("same", "m", {}, {}).name

    said = at_once(work)
    assert said.count("same") == 1
    assert all(s == "same" or s.startswith("SessionError: session 'same': exists already") for s in said)
    for n in range(AT_ONCE):
        Library(tmp_path).create(f"s{n}", "m", {}, {})
    said = at_once(lambda n: Library(tmp_path).rename(f"s{n}", "other"))
    assert said.count("None") == 1
    assert sum("exists already" in s for s in said) == AT_ONCE - 1


def test_a_constraint_is_never_called_damage(tmp_path):
    library = Library(tmp_path)
    expected = pytest.raises(SaveError, match=r"changed the same at the same time \(UNIQUE constraint failed")
    with expected, library.database() as db:
        for _ in range(2):
            db.execute("INSERT INTO dropped VALUES ('x', 1)")


@pytest.fixture
def locked_away(model):
    """A store that only its owner, who is not this user, may write to; removed at the end."""
    if os.getuid() != 0:
        pytest.skip("needs root, who can make a folder that another user may only read")
    folder = Path(tempfile.mkdtemp(prefix="everlong-rights-"))
    with kept(model, folder):
        pass
    yield folder
    shutil.rmtree(folder)


def read_only(folder):
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def read_everything(model, folder, tar):
    """All that reads, done by a user who may not write."""
    os.environ["EVERLONG_HOME"] = str(folder)
    os.setuid(NOBODY)
    assert not os.access(folder, os.W_OK)
    library = Library(folder, create=False)
    found = library.verify(library.entry("one"))
    assert (found["damaged_files"], found["damaged_blocks"]) == ([], [])
    assert [e.name for e in library.entries()] == ["one"]
    assert library.bytes(library.entry("one")) > 0
    library.export("one", tar)
    with Session.open(folder, "one", model, chunk=16, read_only=True) as session:
        said = answer(session)
    for refused in (
        lambda: library.rename("one", "two"),
        lambda: library.create("two", "m", {}, {}),
        lambda: library.delete("one"),
        lambda: library.fork("one", "two"),
        lambda: library.verify(library.entry("one"), repair=True),
        lambda: Session.open(folder, "one", model),
        lambda: kept(model, folder, name="two"),
    ):
        with pytest.raises(SaveError) as caught:
            refused()
        assert "\n" not in str(caught.value)
    return said


@pytest.mark.parametrize("left", ["closed", "log", "older"])
def test_where_nothing_may_be_written_all_that_reads_works(model, locked_away, left):
    with Session.open(locked_away, "one", model, chunk=16, read_only=True) as session:
        expected = str(answer(session))
    if left == "older":
        with sqlite3.connect(locked_away / "everlong.db") as db:
            for table in ("pins", "places", "states"):
                db.execute(f"DROP TABLE {table}")
    writer = sqlite3.connect(locked_away / "everlong.db")
    if left == "log":
        writer.execute("UPDATE sessions SET updated = 7")
        writer.commit()
    else:
        writer.close()
    before = {p: p.stat().st_mtime_ns for p in locked_away.rglob("*")}
    read_only(locked_away)
    shared = Path(tempfile.mkdtemp(prefix="everlong-tar-"))
    shared.chmod(0o777)
    try:
        assert in_a_child(lambda: read_everything(model, locked_away, shared / "one.tar")) == expected
        assert (shared / "one.tar").stat().st_size > 0
    finally:
        shutil.rmtree(shared)
        writer.close()
    assert {p: t for p, t in before.items() if p.exists() and p.stat().st_mtime_ns != t and p.is_dir()} == {}


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", ".", "..", ".hidden", "-x", "a\nb", "a\0b", "a\x1b[1m", " a"])
def test_names_that_cannot_be_typed_or_told_apart_are_refused(tmp_path, model, name):
    with kept(model, tmp_path, 20):
        pass
    library = Library(tmp_path)
    library.export("one", tmp_path / "one.tar")
    for work in (
        lambda: library.create(name, "m", {}, {}),
        lambda: library.rename("one", name),
        lambda: library.fork("one", name),
        lambda: library.take(tmp_path / "one.tar", name),
    ):
        with pytest.raises(InputError, match="a name has at least one character") as caught:
            work()
        assert "\n" not in str(caught.value)
    assert [e.name for e in library.entries()] == ["one"]
    assert len(list((tmp_path / "sessions").iterdir())) == 1


def test_long_names_and_names_of_other_scripts(tmp_path, model):
    with kept(model, tmp_path, 20):
        pass
    library = Library(tmp_path)
    with pytest.raises(InputError, match="at most 100 characters, got 5,000") as caught:
        library.rename("one", "a" * 5000)
    assert len(str(caught.value)) < 200
    for name in ("日本語", "naïve book; rm -rf", "👩‍🔬", "a" * 100):
        library.rename(library.entries()[0].name, name)
        assert library.entries()[0].name == name


@pytest.mark.parametrize("place", [".", "..", "", "/", "folder"])
def test_an_archive_is_not_written_onto_a_folder(tmp_path, model, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with kept(model, tmp_path / "store", 20) as session:
        with pytest.raises(SaveError, match="is a folder; give the name of a file in it"):
            Library("store").export("one", Path(place))
        with session.fork() as twin, pytest.raises(SessionError):
            twin.save(place)


def set_format(store, number):
    with sqlite3.connect(store / "everlong.db") as db:
        db.execute("UPDATE facts SET value = ? WHERE name = 'format'", (str(number),))


def format_of(store):
    with sqlite3.connect(store / "everlong.db") as db:
        return db.execute("SELECT value FROM facts WHERE name = 'format'").fetchone()[0]


def test_stores_of_the_format_before_are_opened_and_newer_ones_say_so(tmp_path, model):
    with kept(model, tmp_path) as session:
        expected = answer(session.fork())
    assert format_of(tmp_path) == "2"
    set_format(tmp_path, 1)
    with Session.open(tmp_path, "one", model, chunk=16, read_only=True) as session:
        assert answer(session) == expected
    assert format_of(tmp_path) == "1"
    with kept(model, tmp_path, 20, name="two"):
        pass
    assert format_of(tmp_path) == "2"
    set_format(tmp_path, 3)
    with pytest.raises(ForeignError, match=r"a store of format 3, newer than this everlong knows \(2\); update it"):
        Library(tmp_path)
