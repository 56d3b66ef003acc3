"""InfiniteBench's scorers: by hand, and against independent implementations over thousands of made-up answers."""

from __future__ import annotations

import random

import pytest

from everlong.evaluate.metrics.infinite import SCORERS
from tests.evaluate.metrics import naive

PIECES = (
    *(
        "answer is: ",
        "answer:",
        "is:",
        " is",
        "option is ",
        "Option ",
        "option",
        "The ",
        "A",
        "B",
        "C",
        "D",
        "AB",
        "B.",
    ),
    *("B:", " parse", " Paris", "Paris", " ", "\n", "'", '"', ".", "-", "*", "`", "!", "12", "7", "12.5", "0.5", "007"),
    *("-6", "6", "{", "}", "MARSHA", "marsha", "Mrs White", "key-1", "key-12", ",", "a", "the", "cats", "北京", "。"),
)
FAMILIES = {
    "passkey": (naive.first_number, ["12", "7"]),
    "kv_retrieval": (naive.word, ["key-1", "7"]),
    "longdialogue_qa_eng": (naive.name, [["MARSHA"], ["MARSHA", "CATS"], ["MRS WHITE", "MARSHA"]]),
    "math_find": (naive.number, [12, 7, 0.5, 12.5]),
    "math_calc": (naive.steps, [[12, 7], [7, 6, 12]]),
    "code_run": (naive.last_number, [6, -6, 12]),
    "code_debug": (naive.faulty, [("parse", "B"), ("Paris", "A")]),
    "longbook_choice_eng": (naive.chosen, [("Paris", "B"), ("Big", "A"), ("parse", "D")]),
    "longbook_qa_eng": (naive.best(naive.f1), [["the cats", "Paris A"], ["7 a 12"]]),
    "longbook_qa_chn": (naive.best(naive.f1_characters), [["北京上海", "7"]]),
    "longbook_sum_eng": (naive.best(naive.rouge_lsum), [["the cats\nis Paris", "answer 12"]]),
}


@pytest.mark.parametrize("subset", FAMILIES)
def test_answers_as_an_independent_implementation_judges_them(subset):
    reference, answers = FAMILIES[subset]
    rng, right, wrong = random.Random(subset), 0, 0
    for _ in range(300 if subset == "longbook_sum_eng" else 3000):
        said, answer = "".join(rng.choices(PIECES, k=rng.randint(0, 7))), rng.choice(answers)
        mine = SCORERS[subset](said, answer)
        assert mine == pytest.approx(reference(said, answer), abs=1e-12), (said, answer)
        right, wrong = right + (mine > 0), wrong + (mine == 0)
    assert min(right, wrong) >= 20


@pytest.mark.parametrize(
    ("subset", "answer", "predictions"),
    [
        ("passkey", "72333", {" 72333.": 1, "is 72333 or 1": 1, "723331": 0, "1 72333": 0, "": 0}),
        ("number_string", ["5002"], {"5002": 1, "500 2": 0, "": 0}),
        ("kv_retrieval", "b33c-1", {'"b33c-1"}': 1, "it is b33c-1.": 1, "b33c-12": 0, "b33c": 0, "": 0}),
        ("kv_retrieval", ["b33c-1"], {"b33c-1": 1, "": 0}),
        ("longdialogue_qa_eng", ["MARSHA"], {"Marsha": 1, "the name is MARSHA.": 1, "MARSHALL": 0, "": 0}),
        ("math_find", 89, {"89": 1, "-89": 1, "089": 1, "89.0": 0, "8 89": 0, "": 0}),
        ("math_find", [0.5], {"0.5": 1, "0.50!": 1, "1.5": 0}),
        ("math_find", "89", {"89": 1, "88": 0}),
        ("math_calc", [1, 4, 8], {"[1, 4, 8]": 1, "1 4 9": 2 / 3, "2 4 8": 0, "1": 1 / 3, "1 4 8 9": 1, "": 0}),
        ("math_calc", [[1, 4]], {"01, 4": 1, "1 5": 0.5}),
        ("code_run", -6, {"-6": 1, "it is: -6.": 1, "-6 it is": 0, "6": 0, "": 0}),
        ("code_run", ["7"], {"7": 1, "8": 0}),
        ("code_debug", ("parse", "B"), {"B. x": 1, " B: x": 1, "B": 0, "It is: parse": 1, "answer: C": 0, "": 0}),
        (
            "longbook_choice_eng",
            ("Paris", "B"),
            {"B": 1, "B. Rome": 1, "A": 0, "Paris": 1, "answer is: Paris": 1, "": 0},
        ),
        ("longbook_choice_eng", ("By sea", "A"), {"By sea": 0, "it was: A": 1, "option is B": 0}),
        ("longbook_qa_eng", "a red cat", {"red cats": 0.5, "The red cat.": 1, "": 0}),
        ("longbook_qa_chn", ["北京"], {"北京。": 1, "北海": 0.5, "": 0}),
        ("longbook_sum_eng", "tide rose", {"Tide rose.": 1, "tide fell": 0.5, "": 0}),
    ],
)
def test_answers_judged_by_hand(subset, answer, predictions):
    assert {said: SCORERS[subset](said, answer) for said in predictions} == pytest.approx(predictions)


def test_a_number_of_thousands_of_digits_is_only_wrong():
    digits = "0" + "7" * 5000
    assert [SCORERS[s](digits, a) for s, a in (("math_calc", [7, 7]), ("math_find", 7), ("code_run", 7))] == [0, 0, 0]
