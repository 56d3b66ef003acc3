"""number_string: ten digits in runs, judged by the first number of the answer."""

from __future__ import annotations

import random
from itertools import groupby

import pytest

from everlong.evaluate.tasks.number_string import NumberString, in_runs
from tests.evaluate import layouts


def test_digits_come_in_runs():
    found = [in_runs(random.Random(n)) for n in range(500)]
    assert {len(digits) for digits in found} == {10}
    assert set("".join(found)) == set("0123456789")
    runs = [len(list(group)) for digits in found for _, group in groupby(digits)]
    assert 2 < sum(runs) / len(runs) < 3.5


@pytest.mark.parametrize(
    ("said", "score"),
    [(" {}.", 1), ("It is {}, {}", 1), ("{}0", 0), ("12 {}", 0), ("{:.9}", 0), ("", 0), ("no", 0)],
)
def test_the_first_number_is_judged(said, score):
    (sample,) = NumberString(lengths=(400,), depths=(0.5,)).make_samples(layouts.setting())
    digits = sample.gold[0]
    assert NumberString().score(said.format(digits, digits), sample) == score


def test_leading_zeros_count():
    task = NumberString(lengths=(400,), depths=(0.5,), samples=40)
    sample = next(s for s in task.make_samples(layouts.setting()) if s.gold[0].startswith("0"))
    assert task.score(sample.gold[0].lstrip("0"), sample) == 0
    assert task.score(sample.gold[0], sample) == 1
    assert sample.context.count(sample.gold[0]) == 2
