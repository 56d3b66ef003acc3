"""Teacher forcing on a table of probabilities, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from everlong.evaluate.recall.cell import Question
from everlong.evaluate.recall.forced import forced

LETTERS = "abcdefgh ,"


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text, **_):
        return {"input_ids": [LETTERS.index(letter) for letter in text]}


class Table:
    """Says `chosen[n]` with probability .5 at place n, and each other letter alike."""

    tokenizer = Letters()
    recall = None

    def __init__(self, chosen):
        self.chosen, self.read = chosen, ""

    def upcoming(self):
        likely = torch.full((len(LETTERS),), 0.5 / (len(LETTERS) - 1))
        likely[LETTERS.index(self.chosen[len(self.read)])] = 0.5
        return likely.log()

    def predictions(self, ids):
        rows = []
        for token in ids:
            rows.append(self.upcoming())
            self.read += LETTERS[token]
        return torch.stack(rows)

    def cited(self):
        return None


def test_right_is_the_first_choice_at_each_place():
    found = forced(Table("abc"), Question("h", ("abc",)))
    assert found.right
    assert found.logp == pytest.approx(math.log(0.5))
    wrong = forced(Table("abd"), Question("h", ("abc",)))
    assert not wrong.right
    assert wrong.logp == pytest.approx((2 * math.log(0.5) + math.log(0.5 / 9)) / 3)
    assert wrong.likeliest == [0, 1, 3]


def test_of_several_answers_any_order_is_right_and_joints_are_not_judged():
    question = Question("h", ("ab", "cd", "ef"), joint=", ")
    table = Table("cd" + "gg" + "ef" + "gg" + "ab")  # it would not have said the joints
    found = forced(table, question)
    assert table.read == "cd, ef, ab"
    assert found.right
    assert len(found.logprobs) == 6
    table = Table("cd" + "gg" + "ga" + "gg" + "ab")
    found = forced(table, question)
    assert not found.right
    assert sorted(table.read.split(", ")) == ["ab", "cd", "ef"]
