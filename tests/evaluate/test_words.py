"""Names and words: the same from the same numbers, all different."""

from __future__ import annotations

import itertools
import random
import re
import uuid

from everlong.evaluate.words import ADJECTIVES, NOUNS, identifier, made_up, names


def test_names_are_different_and_go_on():
    total = len(ADJECTIVES) * len(NOUNS)
    found = list(itertools.islice(names(random.Random(1)), total + 3))
    assert len(set(found)) == total + 3
    assert all(re.fullmatch("[a-z]+-[a-z]+", name) for name in found[:total])
    assert found[total] == found[0] + "-2"


def test_no_word_is_there_twice():
    assert len(set(ADJECTIVES + NOUNS)) == len(ADJECTIVES) + len(NOUNS)


def test_made_up_words_are_different_and_of_one_size():
    found = list(itertools.islice(made_up(random.Random(1)), 20_000))
    assert len(set(found)) == 20_000
    assert {len(word) for word in found} == {6}
    assert found[:9] == list(itertools.islice(made_up(random.Random(1)), 9))
    assert found[:9] != list(itertools.islice(made_up(random.Random(2)), 9))


def test_identifiers_are_uuids():
    assert uuid.UUID(identifier(random.Random(1))).version == 4
    assert identifier(random.Random(1)) == identifier(random.Random(1)) != identifier(random.Random(2))
