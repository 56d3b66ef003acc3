"""books: windows of one book each, once in a round; documents in a row that share nothing; files held out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from everlong.errors import ConfigError
from everlong.text.tokenize import token_ids
from everlong.train.data import make_task
from everlong.train.data.corpus import book_files, book_text
from tests.models.tiny import byte_tokenizer
from tests.train import made

TOKENIZER = byte_tokenizer()


@pytest.fixture
def options(tmp_path) -> dict[str, str]:
    return {"data": str(made.books(tmp_path / "books")), "cache": str(tmp_path / "cache")}


def ids(options: dict[str, str]) -> list[list[int]]:
    return [token_ids(TOKENIZER, book_text(file)) for file in book_files(options["data"])]


def where(books: list[list[int]], part: np.ndarray) -> list[tuple[int, int]]:
    """Each (book, place) at which these tokens stand."""
    wanted, found = part.astype(np.int32).tobytes(), []
    for b, book in enumerate(books):
        whole = np.array(book, np.int32).tobytes()
        at = whole.find(wanted)
        while at >= 0:
            found += [(b, at // 4)] if at % 4 == 0 else []
            at = whole.find(wanted, at + 1)
    return found


def test_a_round_has_each_window_once(options):
    task, books = make_task("books", options), ids(options)
    rounds = sum(len(book) // 100 for book in books)
    starts = []
    for n in range(2 * rounds):
        sample = task.samples(TOKENIZER, 16, 100, 0, n)
        assert len(sample) == 100
        assert sample.loss_weight.tolist() == [0.0] + [1.0] * 99
        assert (sample.write_weight == 1).all()
        assert (sample.document == 0).all()
        assert sample.answer == (0, 0)
        (place,) = where(books, sample.ids)
        starts.append(place)
    for half in (starts[:rounds], starts[rounds:]):
        assert len(set(half)) == rounds
        places = sorted(half)
        assert all(b > a or y - x == 100 for (a, x), (b, y) in itertools.pairwise(places))
    assert starts[:rounds] != starts[rounds:]
    assert {x % 100 for _, x in starts[:rounds]} != {x % 100 for _, x in starts[rounds:]}


def test_the_order_is_the_seed_s(options):
    task, books = make_task("books", options), ids(options)
    orders = [
        [(b, x // 100) for n in range(20) for b, x in where(books, task.samples(TOKENIZER, 16, 100, seed, n).ids)]
        for seed in (0, 1)
    ]
    assert sum(a == b for a, b in zip(*orders, strict=True)) < 5


def test_documents_in_a_row_share_nothing(options):
    task, books = make_task("books", options | {"documents": 3}), ids(options)
    cuts = set()
    for n in range(30):
        sample = task.samples(TOKENIZER, 16, 301, 0, n)
        assert len(sample) == 301
        assert sorted(set(sample.document.tolist())) == [0, 1, 2]
        for d in range(3):
            own = sample.document == d
            assert own.sum() >= 50
            assert where(books, sample.ids[own])
            assert sample.loss_weight[own].tolist() == [0.0] + [1.0] * (own.sum() - 1)
        cuts.add(int((sample.document == 0).sum()))
    assert len(cuts) > 10


def test_books_shorter_than_a_row_are_taken_whole(tmp_path):
    data = made.books(tmp_path / "books", count=4, sentences=2)
    task = make_task("books", {"data": str(data), "cache": str(tmp_path / "cache"), "documents": 2})
    one = make_task("books", {"data": str(data), "cache": str(tmp_path / "cache")})
    whole = {tuple(book) for book in ids({"data": str(data)})}
    assert {tuple(one.samples(TOKENIZER, 8, 5000, 0, n).ids.tolist()) for n in range(4)} == whole
    sample = task.samples(TOKENIZER, 8, 5000, 0, 0)
    assert {tuple(sample.ids[sample.document == d].tolist()) for d in (0, 1)} <= whole


def test_files_held_out_are_never_seen(tmp_path):
    data = {"data": str(made.books(tmp_path / "books", count=10, sentences=9)), "cache": str(tmp_path / "cache")}
    books = ids(data)
    seen = {}
    for part in ("train", "test"):
        task = make_task("books", data | {"part": part, "held_out": 0.2})
        samples = [task.samples(TOKENIZER, 8, 150, 0, n) for n in range(100)]
        seen[part] = {b for sample in samples for b, _ in where(books, sample.ids)}
    assert len(seen["test"]) == 2
    assert seen["train"] == set(range(10)) - seen["test"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"documents": 0}, r"documents=0: must be at least 1"),
        ({"part": "train"}, r"part=train, held_out=0: give part=train or test with held_out > 0"),
        ({"held_out": 0.5}, r"part=all, held_out=0.5: give part=train or test"),
        ({"part": "some"}, r"part=some: expected"),
    ],
)
def test_wrong_options_are_said(more, said):
    with pytest.raises(ConfigError, match=said):
        make_task("books", {"data": "books"} | more)


def test_what_leaves_nothing_is_said(options):
    with pytest.raises(ConfigError, match=r"part=train: held_out=0.9 of 3 files leaves none to train on"):
        make_task("books", options | {"part": "train", "held_out": 0.9}).samples(TOKENIZER, 8, 100, 0, 0)
    with pytest.raises(ConfigError, match=r"documents=9: too many for length=17; give at most 8"):
        make_task("books", options | {"documents": 9}).samples(TOKENIZER, 8, 17, 0, 0)
