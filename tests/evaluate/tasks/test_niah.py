"""niah: one needle or several in the sentences of books."""

from __future__ import annotations

import itertools

import pytest

from everlong.evaluate.data import Data
from everlong.evaluate.haystack import books
from everlong.evaluate.tasks.niah import QUESTION, Niah
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layouts.books(tmp_path_factory.mktemp("data"))


def made(folder, **fields):
    return list(Niah(**fields).make_samples(layouts.setting(folder)))


def test_a_needle_stands_between_two_sentences(folder):
    (sample,) = made(folder, lengths=(500,), depths=(0.5,))
    needle = f" The lighthouse checkpointer took along a {sample.gold[0]}."
    without = sample.context.replace(needle, "")
    source = "".join(itertools.islice(books(Data(folder)), 200))
    assert source.startswith(without)
    assert len(sample.context) == len(without) + len(needle)
    assert sample.question == QUESTION


def test_more_needles_are_spread_behind_the_first(folder):
    (sample,) = made(folder, lengths=(3000,), depths=(0.2,), needles=4)
    places = [sample.context.find(f"along a {thing}.") / len(sample.context) for thing in sample.gold]
    assert places == sorted(places)
    assert places == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.03)
    assert len(set(sample.gold)) == 4
    assert sample.question.endswith("took along these 4 things: a")


def test_the_score_is_the_share_that_was_named(folder):
    task = Niah(lengths=(1000,), depths=(0.5,), needles=4)
    (sample,) = task.make_samples(layouts.setting(folder))
    first, second, *_ = sample.gold
    assert task.score(f" a {first.upper()} and the {second}", sample) == 0.5
    assert task.score(first.split()[0], sample) == 0
    (outcome,) = task.run(EchoStream(lambda text, question: " and a ".join(sample.gold)), sample)
    assert outcome.score == 1.0


def test_number_n_begins_with_book_n(folder):
    first, second = made(folder, lengths=(500,), depths=(1.0,), samples=2)
    assert first.context.startswith(" In year 0 of book one")
    assert second.context.startswith(" In year 0 of book two")
    assert first.context.endswith(f"took along a {first.gold[0]}.")
