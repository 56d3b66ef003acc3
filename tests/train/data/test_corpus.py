"""Tokenised books: one flat array, made once, made anew when anything changes, whole or not there."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

from everlong.errors import ConfigError, InputError, SaveError
from everlong.text.tokenize import token_ids
from everlong.train.data import corpus
from everlong.train.data.corpus import book_files, book_text, part_of, tokenised
from everlong.train.tokenizer import bpe_tokenizer, closed_tokenizer
from tests.models.tiny import byte_tokenizer
from tests.train import made

TOKENIZER = byte_tokenizer()


def folders(cache) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_the_array_is_that_of_the_books(tmp_path):
    files = book_files(made.books(tmp_path / "books"))
    found = tokenised(files, TOKENIZER, tmp_path / "cache")
    expected = [token_ids(TOKENIZER, book_text(file)) for file in files]
    assert isinstance(found.tokens, np.memmap)
    assert found.tokens.dtype == np.uint16
    assert found.tokens.tolist() == list(itertools.chain.from_iterable(expected))
    assert np.diff(found.starts).tolist() == [len(book) for book in expected]
    assert "Licence" not in TOKENIZER.decode(found.tokens.tolist())
    flat = tokenised(files[:1], TOKENIZER, tmp_path / "cache", flat=True)
    assert TOKENIZER.decode(flat.tokens.tolist()) == " ".join(book_text(files[0]).split())


def test_pieces_of_a_book_and_wide_vocabularies(tmp_path, monkeypatch):
    files = book_files(made.books(tmp_path / "books"))
    expected = tokenised(files, TOKENIZER, tmp_path / "one").tokens.tolist()
    monkeypatch.setattr(corpus, "_PIECE_CHARS", 700)
    monkeypatch.setattr(type(TOKENIZER), "__len__", lambda _: 70_000)
    found = tokenised(files, TOKENIZER, tmp_path / "two")
    assert found.tokens.dtype == np.uint32
    assert found.tokens.tolist() == expected


def test_round_the_end(tmp_path):
    found = tokenised(book_files(made.books(tmp_path / "books")), TOKENIZER, tmp_path / "cache")
    whole = found.tokens.tolist()
    assert found.around(3, 5).tolist() == whole[3:8]
    assert found.around(len(whole) - 2, 4).tolist() == whole[-2:] + whole[:2]
    assert found.around(-3, 5).tolist() == whole[-3:] + whole[:2]
    assert found.around(0, 2 * len(whole)).tolist() == whole * 2


def test_it_is_made_once_and_anew_when_anything_changes(tmp_path):
    files, cache, told = book_files(made.books(tmp_path / "books")), tmp_path / "cache", []

    def look(tokenizer=TOKENIZER, files=files, **how):
        told.clear()
        tokenised(files, tokenizer, cache, progress=lambda done, of: told.append((done, of)), **how)
        return list(told)

    new = [(1, 3), (2, 3), (3, 3)]
    assert look() == new
    assert look() == []
    assert look(flat=True) == new
    assert look(bpe_tokenizer(files, 300)) == new
    assert look(files=files[:2]) == [(1, 2), (2, 2)]
    assert (look(), look(flat=True), look(files=files[:2])) == ([], [], [])
    files[0].write_text("Another book, and a longer one than before." * 200)
    assert look() == new
    stat = files[1].stat()
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert look() == new
    assert look() == []


def test_nothing_half_made_stays(tmp_path):
    made.books(tmp_path / "books")
    (tmp_path / "books" / "zz.txt").write_text("")
    with pytest.raises(InputError, match=r"zz.txt: is empty; expected the text of a book: remove the file"):
        tokenised(book_files(tmp_path / "books"), TOKENIZER, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


def test_who_comes_second_takes_what_is_there(tmp_path):
    files, cache = book_files(made.books(tmp_path / "books")), tmp_path / "cache"
    first = []

    def other(done: int, of: int) -> None:
        if not first:
            first.append(True)
            tokenised(files, TOKENIZER, cache)

    found = tokenised(files, TOKENIZER, cache, progress=other)
    assert len(folders(cache)) == 1
    assert found.tokens.tolist() == tokenised(files, TOKENIZER, cache).tokens.tolist()


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "home"))
    tokenised(book_files(made.books(tmp_path / "books")), TOKENIZER)
    assert len(folders(tmp_path / "home" / "books")) == 1


def test_halves_that_do_not_overlap_and_stay(tmp_path):
    files = [tmp_path / f"{n}.txt" for n in range(20)]
    train, test = part_of(files, "train", 0.1), part_of(files, "test", 0.1)
    assert (len(train), len(test)) == (18, 2)
    assert sorted(train + test) == sorted(files)
    assert part_of(files[::-1], "test", 0.1) == test
    assert len(part_of(files, "test", 0.001)) == 1
    assert part_of(files, "all", 0.0) == files
    with pytest.raises(ConfigError, match=r"part=test: held_out=0.5 of 1 files leaves none to train on; give more"):
        part_of(files[:1], "test", 0.5)


def test_files_that_are_no_books_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data=.*nowhere: no such file or folder"):
        book_files(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no such file or folder; the environment variable is not set; give"):
        book_files("$EVERLONG_NO_SUCH_NAME/books")
    with pytest.raises(InputError, match=r"data=.*empty: has no \*.txt; give the folder with the books"):
        book_files(tmp_path / "empty")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\0\0")
    assert book_files(tmp_path / "image.txt") == [tmp_path / "image.txt"]
    with pytest.raises(InputError, match=r"image.txt: is no text \(it has a zero byte\); remove the file"):
        tokenised([tmp_path / "image.txt"], TOKENIZER, tmp_path / "cache")
    with pytest.raises(InputError, match=r"gone.txt: cannot be read \(No such file"):
        tokenised([tmp_path / "gone.txt"], TOKENIZER, tmp_path / "cache")


def test_older_books_are_latin_1(tmp_path):
    (tmp_path / "latin.txt").write_bytes("café\r\nÂ".encode("latin-1"))
    (tmp_path / "utf.txt").write_text("café\nÂ", encoding="utf-8")
    assert book_text(tmp_path / "latin.txt") == book_text(tmp_path / "utf.txt") == "café\nÂ"
    (tmp_path / "marked.txt").write_bytes("café\r\nÂ".encode("utf-8-sig"))
    assert book_text(tmp_path / "marked.txt") == "café\nÂ"


def test_a_closed_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"book0.txt: \d+ of its \d+ tokens are unknown to the tokenizer; take one"):
        tokenised(book_files(made.books(tmp_path / "books")), closed_tokenizer(["The tide"]), tmp_path / "cache")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cache=.*file: cannot be written \(.*\); give another folder"):
        tokenised(book_files(made.books(tmp_path / "books")), TOKENIZER, tmp_path / "file")


@pytest.mark.parametrize("name", [corpus.TOKENS, corpus.STARTS])
def test_damage_is_said(tmp_path, name):
    files = book_files(made.books(tmp_path / "books"))
    tokenised(files, TOKENIZER, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damaged \(.*\); remove this folder, and it is made again"):
        tokenised(files, TOKENIZER, tmp_path / "cache")


def test_real_books(data_dir, tmp_path):
    folder = data_dir / "train_books"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: real books are not part of the project")
    files = book_files(folder)[:1]
    found = tokenised(files, TOKENIZER, tmp_path)
    assert (
        TOKENIZER.decode(found.tokens[:20_000].tolist())
        == book_text(files[0])[: len(TOKENIZER.decode(found.tokens[:20_000].tolist()))]
    )
