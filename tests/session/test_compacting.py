"""Compacting: the same answers from smaller files, whatever was dropped and whoever shares them."""

from __future__ import annotations

import pytest

from everlong import Session
from everlong.errors import SaveError
from everlong.library import compact as compacting
from everlong.library.library import Library
from tests.session.keeping import IDS, kept
from tests.session.test_forget import SPAN, reopened, rows


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def dropped(model, store, *spans, ids=150):
    """A session that has forgotten spans."""
    with kept(model, store, ids) as session:
        for span in spans:
            session.forget(span)


def whole(store, name="one"):
    library = Library(store)
    return library.verify(library.entry(name))["damaged_blocks"] == []


@pytest.mark.parametrize("spans", [[SPAN], [(3, 20), (60, 61)], [(70, 103)], [(3, 103)]])
def test_it_answers_and_reads_on_as_before(model, tmp_path, spans):
    dropped(model, tmp_path / "a", *spans)
    dropped(model, tmp_path / "b", *spans)
    library = Library(tmp_path / "a")
    before, size = reopened(model, tmp_path / "a"), library.bytes(library.entry("one"))
    found = library.compact("one")
    assert library.bytes(library.entry("one")) < size
    blocks = {n for a, b in spans for n in range((a - 3) // 5, -(-(b - 3) // 5))}
    assert found.left_alone == 0
    count = Library(tmp_path / "a").entry("one").blocks
    assert found.after_bytes * count == found.before_bytes * (count - len(blocks))
    assert len(list((tmp_path / "a" / "blocks").iterdir())) == 2
    assert whole(tmp_path / "a")
    assert reopened(model, tmp_path / "a") == before
    for name in ("a", "b"):
        with Session.open(tmp_path / name, "one", model, chunk=16) as session:
            session.feed(IDS[150:200])
    assert whole(tmp_path / "a")
    assert reopened(model, tmp_path / "a") == reopened(model, tmp_path / "b")
    assert Library(tmp_path / "a").compact("one").after_bytes > found.after_bytes


def test_nothing_dropped_changes_nothing(model, tmp_path):
    dropped(model, tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "blocks").iterdir()}
    found = Library(tmp_path).compact("one")
    assert found.before_bytes == found.after_bytes
    assert {p.name: p.read_bytes() for p in (tmp_path / "blocks").iterdir()} == before


def test_files_that_a_fork_needs_are_left_alone(model, tmp_path):
    with kept(model, tmp_path):
        pass
    library = Library(tmp_path)
    library.fork("one", "two")
    expected = reopened(model, tmp_path, "two")
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        session.forget(SPAN)
    before = rows(tmp_path, "two")
    found = library.compact("one")
    assert (found.left_alone, found.before_bytes) == (1, found.after_bytes)
    assert rows(tmp_path, "two") == before
    assert reopened(model, tmp_path, "two") == expected


def test_files_whose_dropped_blocks_no_fork_needs_are_written_anew_for_all(model, tmp_path):
    dropped(model, tmp_path, SPAN)
    library = Library(tmp_path)
    library.fork("one", "two")
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        session.feed(IDS[150:170])
    before = [reopened(model, tmp_path, name) for name in ("one", "two")]
    with library.locked(library.entry("two")):
        assert library.compact("one").after_bytes == library.compact("one").before_bytes
    found = library.compact("two")
    assert found.after_bytes < found.before_bytes
    assert [reopened(model, tmp_path, name) for name in ("one", "two")] == before
    assert whole(tmp_path, "one")
    assert whole(tmp_path, "two")
    for name in ("one", "two"):
        with Session.open(tmp_path, name, model, chunk=16) as session:
            session.feed(IDS[170:200])
        assert whole(tmp_path, name)
    library.delete("two")
    assert whole(tmp_path)


def test_a_full_disk_or_a_crash_leaves_it_as_it_was(model, tmp_path, monkeypatch):
    dropped(model, tmp_path, SPAN)
    before, files = reopened(model, tmp_path), sorted((tmp_path / "blocks").iterdir())
    library = Library(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("everlong.storage.row_file.os.fsync", full)
        with pytest.raises(SaveError, match="No space left on device; nothing was changed"):
            library.compact("one")
    assert sorted((tmp_path / "blocks").iterdir()) == files
    with monkeypatch.context() as patch:
        patch.setattr(compacting, "_name", full)
        with pytest.raises(OSError, match="No space"):
            library.compact("one")
    assert reopened(model, tmp_path) == before
    assert library.compact("one").after_bytes < library.compact("one").before_bytes + 1
    assert reopened(model, tmp_path) == before
