"""math_find: the right number of a list, by definition and by hand."""

from __future__ import annotations

import json
import statistics

import pytest

from everlong.evaluate.tasks.math_find import KINDS, MathFind, found
from tests.evaluate import layouts

NUMBERS = [5, 1, 9, 9, 3, 7, 1]


@pytest.mark.parametrize(("kind", "number"), list(zip(KINDS, [9, 7, 5, 1, 3, 5, 5], strict=True)))
def test_by_hand(kind, number):
    assert found(kind, NUMBERS) == number


def test_the_answer_is_that_of_the_list_in_the_text():
    samples = list(MathFind(lengths=(900,), samples=3).make_samples(layouts.setting()))
    assert [s.group for s in samples] == [kind for kind in KINDS for _ in range(3)]
    for sample in samples:
        numbers = json.loads(sample.context[sample.context.index("[") :])
        assert len(numbers) % 2
        assert len(numbers) > 100
        assert 0 <= min(numbers) < max(numbers) < 100
        distinct = sorted(set(numbers))
        expected = dict(zip(KINDS, [*distinct[:-4:-1], *distinct[:3], statistics.median(numbers)], strict=True))
        assert sample.gold == (str(expected[sample.group]),)
        assert sample.group.replace("_", " ") in sample.question
    assert len({s.gold for s in samples if s.group == "largest"}) > 1


def test_the_first_number_is_judged():
    (sample,) = MathFind(lengths=(900,), subsets=("largest",)).make_samples(layouts.setting())
    task, right = MathFind(), sample.gold[0]
    assert task.score(f" {right}, not 7", sample) == 1
    assert task.score(f" 7, not {right}", sample) == 0
    assert task.score(f"{right}1", sample) == 0
