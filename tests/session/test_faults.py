"""Faults that a store must survive: one clear line, nothing lost that was kept, the undamaged part recoverable."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from everlong import Blocks, Session
from everlong.errors import DamagedError, EverlongError, ForeignError, SaveError
from everlong.library import database
from everlong.library import state_file as sealed
from everlong.library.library import Library
from tests.session.test_forget import IDS, SMALL, answer, kept, reopened

NOBODY = 65534


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def two_checkpoints(model, store):
    """A session of 150 tokens whose checkpoint before that has 120; the answers after 120."""
    with kept(model, store, 120) as session:
        before = answer(session.fork())
        session.feed(IDS[120:150])
    return before


def newest_state(store):
    entry = Library(store).entry("one")
    return Library(store).place(entry) / (entry.state or "")


def flip(path):
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 0x55
    path.write_bytes(data)


def in_a_child(work):
    """What `work` says in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(work()).encode())
        except BaseException as error:  # noqa: BLE001 (told to the parent)
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 (a descriptor)
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_state_falls_back_to_the_checkpoint_before(model, tmp_path, how):
    before = two_checkpoints(model, tmp_path)
    library, path = Library(tmp_path), newest_state(tmp_path)
    assert len(list(library.place(library.entry("one")).glob("state-*"))) == 2
    if how == "flip":
        flip(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:999])
    else:
        path.unlink()
    with pytest.raises(EverlongError):
        reopened(model, tmp_path)
    found = library.verify(library.entry("one"))
    assert (found["damaged_files"], found["damaged_blocks"]) == ([str(path)], [])
    library.verify(library.entry("one"), repair=True)
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.seen_tokens == 120
        assert session.transcript.ids.tolist() == IDS[:120]
        assert answer(session.fork()) == before
        session.feed(IDS[120:150])
    assert library.verify(library.entry("one"))["damaged_files"] == []
    shutil.rmtree(tmp_path)
    with kept(model, tmp_path) as session:
        want = answer(session.fork())
    assert reopened(model, tmp_path) == want


def test_damaged_ids_behind_the_checkpoint_before_fall_back_too(model, tmp_path):
    before = two_checkpoints(model, tmp_path)
    library = Library(tmp_path)
    path = library.place(library.entry("one")) / "ids"
    path.write_bytes(path.read_bytes()[:500] + b"\x07" + path.read_bytes()[501:])
    assert library.verify(library.entry("one"))["damaged_files"] == [str(path)]
    library.verify(library.entry("one"), repair=True)
    assert reopened(model, tmp_path) == before


def test_with_both_states_damaged_it_is_to_be_read_again(model, tmp_path):
    two_checkpoints(model, tmp_path)
    library = Library(tmp_path)
    for path in library.place(library.entry("one")).glob("state-*"):
        flip(path)
    with pytest.raises(DamagedError, match="read again") as caught:
        library.verify(library.entry("one"), repair=True)
    assert "\n" not in str(caught.value)


def test_verify_counts_rows_right_where_a_fork_was_read_past(model, tmp_path):
    """The file of a fork goes on behind the fork's own rows, and a killed writer leaves rows without digests."""
    with kept(model, tmp_path):
        pass
    library = Library(tmp_path)
    library.fork("one", "two")
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        session.feed(IDS)
    assert library.verify(library.entry("two"))["damaged_blocks"] == []
    path = library.volumes(library.entry("one"))[0].path
    with path.open("ab") as file:
        file.write(bytes(library.entry("one").row_bytes * 2))
    assert library.verify(library.entry("one"))["damaged_blocks"] == []


def test_a_locked_database_is_one_line_within_the_timeout(model, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "LOCKED_S", 0.2)
    session = kept(model, tmp_path, 70)
    session.feed(IDS[70:90])
    other = sqlite3.connect(tmp_path / "everlong.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SaveError, match="database is locked; close the other program") as caught:
        session.checkpoint()
    assert "\n" not in str(caught.value)
    other.execute("ROLLBACK")
    other.close()
    session.checkpoint()
    session.close()
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.seen_tokens == 90


LONG = IDS * 3


@pytest.fixture(scope="module")
def answer_after_long(model):
    """What a session in memory answers after all of `LONG`."""
    with Session(model, Blocks(**SMALL), chunk=16) as session:
        session.feed(LONG)
        return answer(session)


@pytest.mark.parametrize(
    ("limit_bytes", "kept_tokens", "step", "full"),
    [(30_000, 0, 520, "db"), (16_000, 120, 1, "db"), (160_000, 120, 520, "blocks")],
)
def test_a_full_disk_while_reading(model, tmp_path, answer_after_long, limit_bytes, kept_tokens, step, full):
    """A limit on the size of files stands for a full disk; reading goes on from the checkpoint before."""
    ids = LONG
    if kept_tokens:
        kept(model, tmp_path, kept_tokens).close()

    def read():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        session = Session.open(tmp_path, "one", model, 16) if kept_tokens else kept(model, tmp_path, 0)
        for first in range(kept_tokens, len(ids), step):
            session.feed(ids[first : first + step])
            session.checkpoint()

    said = in_a_child(read)
    assert said.startswith("SaveError: ")
    assert full in said
    assert "\n" not in said
    library = Library(tmp_path)
    if library.find("one") is None:
        kept(model, tmp_path, 0).close()
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert kept_tokens <= session.seen_tokens < len(ids)
        session.feed(ids[session.seen_tokens :])
        assert session.transcript.ids.tolist() == ids
        got = answer(session.fork())
    assert library.verify(library.entry("one"))["damaged_blocks"] == []
    assert got == answer_after_long


def test_a_read_only_file_system_is_one_line(model, tmp_path, monkeypatch):
    """As root, who may write everywhere: the system call says that it is read-only."""
    with kept(model, tmp_path):
        pass
    opened = os.open

    def refuse(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SaveError, match="Read-only file system; check the folder's rights"):
        Session.open(tmp_path, "one", model)
    assert reopened(model, tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="gives up the rights of root to meet a folder that it may not write")
def test_a_folder_without_the_right_to_write_is_one_line(model):
    folder = Path(tempfile.mkdtemp(prefix="everlong-rights-"))
    try:
        with kept(model, folder):
            pass
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

        def rename():
            os.setuid(NOBODY)
            Library(folder).rename("one", "two")

        said = in_a_child(rename)
        assert said.startswith("SaveError: "), said
        assert "check the folder's rights" in said
        assert "\n" not in said
        assert [e.name for e in Library(folder).entries()] == ["one"]
    finally:
        shutil.rmtree(folder)


def test_a_folder_below_a_file_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SaveError, match="Not a directory; give another folder with --store"):
        kept(model, tmp_path / "file" / "store")


def test_a_state_of_another_format_is_refused(model, tmp_path):
    with kept(model, tmp_path):
        pass
    path = newest_state(tmp_path)
    tensors, document = sealed.read(path)
    sealed.write(path, tensors, document | {"format": 1})
    with pytest.raises(ForeignError, match="a state of format 1, expected 3; use the version that wrote it"):
        reopened(model, tmp_path)


def test_a_store_from_before_pins_is_taken_up(model, tmp_path):
    with kept(model, tmp_path) as session:
        want = answer(session.fork())
    with sqlite3.connect(tmp_path / "everlong.db") as db:
        for table in ("pins", "forgotten", "states"):
            db.execute(f"DROP TABLE {table}")
    assert reopened(model, tmp_path) == want
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        session.pin((40, 42))
    assert Library(tmp_path).pins(Library(tmp_path).entry("one"))
