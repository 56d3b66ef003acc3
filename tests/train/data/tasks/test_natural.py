"""natural: keys behind the ends of sentences of books, at even depths, in text cut anywhere."""

from __future__ import annotations

import re

import pytest

from everlong.errors import ConfigError, InputError
from everlong.text.haystack import KEY, KEY_QUESTION, PAPER_OPENING
from everlong.train.data import make_task
from tests.models.tiny import byte_tokenizer
from tests.train import made

TOKENIZER = byte_tokenizer()


@pytest.fixture
def options(tmp_path) -> dict[str, str]:
    return {"data": str(made.books(tmp_path / "books")), "cache": str(tmp_path / "cache")}


def flat() -> str:
    """All books in a row as the filler has them, twice."""
    story = " ".join(
        f"In year {n} of book {b} the tide rose and fell. Who saw it?" for b in range(3) for n in range(60)
    )
    return re.sub(r"\? In year 0", "?In year 0", story) * 2


def test_the_key_stands_between_sentences(options):
    task, found = make_task("natural", options), set()
    for n in range(40):
        sample = task.samples(TOKENIZER, 64, 700, 0, n)
        text, key = made.text(TOKENIZER, sample), made.answer(TOKENIZER, sample)
        before, after = text.removeprefix(PAPER_OPENING).split(KEY.format(key=key))
        after = after.removesuffix(f"{KEY_QUESTION} {key}")
        assert before + after in flat()
        assert not before or before.endswith((".", "?"))
        assert (before + after).endswith((".", "?"))
        assert 350 <= len(sample) <= 700
        found.add(before[:3])
    assert len(found) > 5


def test_two_needles_have_names(options):
    task = make_task("natural", options | {"needles": 2, "repeat": 8})
    sample = task.samples(TOKENIZER, 16, 900, 0, 0)
    text = made.text(TOKENIZER, sample)
    pairs = dict(re.findall(r"The pass key of (\w+) is (\d+)\. Remember", text))
    (name,) = re.findall(r"What is the pass key of (\w+)\?", text)
    assert len(pairs) == 2
    assert pairs[name] == made.answer(TOKENIZER, sample)
    more = [n for n in range(0, len(sample), 16) if sample.write_weight[n] > 1]
    assert 0 < len(more) < len(sample) // 16
    assert all(TOKENIZER.decode(sample.ids[n : n + 16].tolist()) in flat() for n in more)


def test_a_row_longer_than_all_books_goes_round(options):
    sample = make_task("natural", options).samples(TOKENIZER, 64, 30_000, 0, 0)
    assert len(sample) >= 15_000


def test_books_are_prepared_before_they_are_needed(options):
    told = []
    task = make_task("natural", options)
    task.prepare(TOKENIZER, lambda done, of: told.append((done, of)))
    task.prepare(TOKENIZER, lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert task.texts() == ()


def test_how_many_needles_there_are_is_drawn_and_each_is_asked_for(options):
    task = make_task("natural", options | {"needles": [1, 3], "questions": "all", "opening": "none"})
    counts = set()
    for n in range(30):
        sample = task.samples(TOKENIZER, 64, 1200, 0, n)
        text = made.text(TOKENIZER, sample)
        found = dict(re.findall(r"The pass key of (\w+) is (\d+)\. Remember", text))
        assert len(sample.answers) == max(1, len(found))
        for name, key in found.items():
            assert f" What is the pass key of {name}? The pass key of {name} is {key}" in text
        counts.add(len(found))
    assert counts == {0, 2, 3}  # a single one has no name


def test_what_is_wrong_is_said(options, tmp_path):
    with pytest.raises(ConfigError, match=r"needles=17: expected 1..16"):
        make_task("natural", options | {"needles": 17})
    with pytest.raises(ConfigError, match=r"needles=2: expected 3..16"):
        make_task("natural", options | {"needles": [3, 2]})
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; give the folder with the books"):
        make_task("natural", options | {"data": str(tmp_path / "nowhere")}).samples(TOKENIZER, 64, 700, 0, 0)
