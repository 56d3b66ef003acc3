"""Filler: texts of a wanted number of tokens, facts at their depths, counts that a piece has within a text."""

from __future__ import annotations

import itertools
import random

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.haystack import (
    NOISE,
    Hidden,
    book,
    books,
    fitting,
    hay,
    longest,
    measured,
    noise,
    pieces,
)
from tests.evaluate import layouts
from tests.session.conftest import prefix_space

COUNT = layouts.setting().count


def words(text: str) -> int:
    return len(text.split())


def numbered():
    """a0 a1 a2 ... without end, one token each."""
    return (f" a{n}" for n in itertools.count())


def test_hay_by_hand():
    assert hay(numbered(), 5, words, opening="Go on.") == "Go on. a0 a1 a2"
    found = hay(numbered(), 8, words, [Hidden(" x", 0.5), Hidden(" y", 1.0), Hidden(" z", 0.0)], "Go.")
    assert found == "Go. z a0 a1 x a2 a3 y"


def test_facts_of_equal_depth_keep_their_order():
    facts = [Hidden(f" f{n}", 0.5) for n in range(4)]
    assert hay(numbered(), 8, words, facts) == " a0 a1 f0 f1 f2 f3 a2 a3"


@pytest.mark.parametrize("seed", range(20))
def test_a_fact_stands_at_the_place_nearest_to_its_depth(seed):
    """Against the definition, over pieces of unequal size; of two equally near places the first."""
    rng = random.Random(seed)
    source = [" x" * rng.randint(0, 5) for _ in range(30)]
    facts = [Hidden(f" F{n}", rng.choice([0.0, 0.25, 0.5, rng.random(), 1.0])) for n in range(6)]
    taken = [piece for piece, _ in fitting(source, 60 - 6, words)]
    starts = list(itertools.accumulate(map(words, taken), initial=0))
    expected, at = "", 0
    for fact in sorted(facts, key=lambda f: f.depth):
        place = min(range(at, len(starts)), key=lambda n: abs(starts[n] - fact.depth * starts[-1]))
        expected += "".join(taken[at:place]) + fact.text
        at = place
    assert hay(source, 60, words, facts) == expected + "".join(taken[at:])


@pytest.mark.parametrize("tokens", [1, 63, 100, 1500, 4096])
def test_a_text_fills_its_tokens_and_no_more(tokens):
    size = measured(COUNT)
    assert tokens - COUNT(NOISE) < COUNT(hay(noise(), tokens, size)) <= tokens


def test_no_room_for_the_facts_is_said():
    with pytest.raises(
        ConfigError, match="lengths=3 without the question: too few tokens for the hidden facts; give 1 more"
    ):
        hay(noise(), 3, words, [Hidden("one two three four", 0.5)])


def test_books_go_on_for_ever_from_any_of_them(tmp_path):
    data = Data(layouts.books(tmp_path))
    first = list(itertools.islice(books(data), 4001))
    assert first[0] == " In year 0 of book one the tide rose and fell."
    assert first[1] == " Who saw it?"
    assert first[2000] == " In year 0 of book two the tide rose and fell."
    assert first[4000] == first[0]
    assert next(books(data, 1)) == next(books(data, 3)) == first[2000]
    assert next(pieces("books", data, 1)) == first[2000]
    assert next(pieces("noise", Data(None))) == NOISE
    with pytest.raises(InputError, match=r"books/\*.txt is needed"):
        next(books(Data(None)))


def test_what_stands_around_a_book_is_left_out():
    inside = "It began. " * 9
    assert book(f"Head\n*** START OF THIS EBOOK ***\n{inside}\n***END OF THE EBOOK***\nTail") == inside.strip()
    assert book(" only a book ") == "only a book"


@pytest.mark.parametrize("tokenizer", [lambda text, **_: {"input_ids": [0, *text]}, prefix_space("metaspace")])
def test_pieces_are_measured_as_they_are_within_a_text(tokenizer):
    """Tokenizers that begin a text with a token of their own would otherwise count one too many for each piece."""

    def count(text):
        return len(tokenizer(text)["input_ids"])

    size, source = measured(count), [" It was the best", " of times; the tide", " rose."] * 20
    assert count("".join(source)) - 2 <= sum(map(size, source)) <= count("".join(source))
    assert sum(map(count, source)) >= count("".join(source)) + 50


def test_what_was_measured_is_not_counted_again():
    calls = []
    size = measured(lambda text: calls.append(text) or len(text))
    assert [size("ab"), size("ab"), size("c")] == [2, 2, 1]
    assert calls == ["\n", "\nab", "\nc"]


@pytest.mark.parametrize("tokens", [1, 2, 15, 100, 1000, 20_000])
@pytest.mark.parametrize(
    "make", [lambda n: "ab " * n, lambda n: "head " + " ".join(map(str, range(n))), "x y ".__mul__]
)
def test_the_longest_text_is_found_with_few_counts(make, tokens):
    calls = []

    def count(text):
        calls.append(text)
        return len(text)

    if count(make(1)) > tokens:
        with pytest.raises(ConfigError, match="too few tokens; give"):
            longest(make, tokens, count)
        return
    found = longest(make, tokens, count)
    step = len(make(2)) - len(make(1)) + 8
    assert min(0.98 * tokens, tokens - step) <= len(found) <= tokens
    assert len(calls) <= 12
