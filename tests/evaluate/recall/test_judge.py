"""What is said of a question, from what came back: computed by hand on a text whose every character is a token."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from everlong import Blocks
from everlong.evaluate.recall.cell import Question
from everlong.evaluate.recall.judge import judged
from everlong.session.recall import Recalled

METHOD = Blocks(sinks=10, window=20, block=10)
NEAR = "The ring lies in the blue box."
FAR = "The blue box is in the mill."
TEXT = "." * 30 + NEAR + "." * 100 + FAR + "." * 100
QUESTION = Question("Where?", (" mill",), (NEAR, FAR))
ONE = Question("Where?", (" mill",), (FAR,))


class Characters:
    """A tokenizer of characters."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids):
        return "".join(map(chr, ids))


class Says:
    """Writes `answer` with certainty, whatever is given to it; recalled is what it is told."""

    tokenizer = Characters()

    def __init__(self, answer, recall):
        self.answer, self.recall = answer, recall

    def predictions(self, ids):
        rows = torch.full((len(ids), 128), -math.inf)
        for row, said, wanted in zip(rows, self.answer, ids, strict=True):
            row[wanted] = 0.0
            row[ord(said)] = 0.0 if ord(said) == wanted else 1.0
        return rows

    def upcoming(self):
        raise AssertionError("there is one answer only")

    def cited(self):
        return None if self.recall is None else list(self.recall.passages)


def passage(start, end):
    return Recalled("text", start, end, TEXT[start:end], start, end, 0.1, "words")


def recall(passages, shown, stands_out=True):
    taken = tuple(passage(*one) for one in shown)
    return SimpleNamespace(
        passages=tuple(passage(*one) for one in passages),
        shown=taken,
        blocks=tuple(one.start for one in taken),
        stands_out=stands_out,
        way="again",
    )


NEAR_PASSAGE, FAR_PASSAGE = (20, 70), (150, 200)


def test_all_of_all_facts_must_be_shown():
    both = recall([FAR_PASSAGE, NEAR_PASSAGE], [NEAR_PASSAGE, FAR_PASSAGE])
    found = judged(Says(" mill", both), QUESTION, TEXT, METHOD)
    assert found.score == 1
    assert found.scores == {
        **dict.fromkeys(("hit", "found", "rank1", "rank3", "citation1", "citation3", "stands_out"), 1.0),
        "likelihood": pytest.approx(1),
    }
    assert found.facts["rank"] == 1
    assert found.facts["recalled"] == [20, 150]
    assert found.facts["citations"] == [[150, 200], [20, 70]]
    half = judged(Says(" mill", recall([FAR_PASSAGE], [FAR_PASSAGE])), QUESTION, TEXT, METHOD)
    assert (half.scores["hit"], half.scores["found"]) == (0, 0.5)


def test_a_fact_cut_by_a_border_did_not_come_back_but_has_a_rank():
    cut = recall([(0, 10), (100, 180), FAR_PASSAGE], [(100, 180)])
    found = judged(Says(" mill", cut), ONE, TEXT, METHOD)
    assert TEXT[100:180].count("The blue box is in t") == 1
    assert found.scores["hit"] == 0
    assert found.facts["rank"] == 2
    assert (found.scores["rank1"], found.scores["rank3"]) == (0, 1)


def test_citations_are_judged_where_the_answer_is_right():
    found = judged(Says(" hill", recall([(0, 10), FAR_PASSAGE], [FAR_PASSAGE])), ONE, TEXT, METHOD)
    assert found.score == 0
    assert found.prediction == " hill"
    assert found.facts["logp"] == pytest.approx(-math.log(1 + math.e) / 5)
    assert found.scores["rank3"] == 1
    assert "citation3" not in found.scores


def test_what_never_left_the_window_is_judged_by_the_answer_alone():
    recent = TEXT + FAR.replace("mill", "barn") + "." * 5
    question = Question("Where?", (" barn",), (FAR.replace("mill", "barn"),))
    found = judged(Says(" barn", recall([NEAR_PASSAGE], [NEAR_PASSAGE])), question, recent, METHOD)
    assert not found.facts["stored"]
    assert set(found.scores) == {"likelihood", "stands_out"}


def test_without_a_memory_only_the_answer_is_judged():
    found = judged(Says(" mill", None), ONE, TEXT, None)
    assert (found.score, set(found.scores)) == (1, {"likelihood"})
    assert found.facts["place"] == "middle"
    assert found.facts["depths"] == [round(160 / len(TEXT), 4)]


@pytest.mark.parametrize(("stands_out", "said"), [(True, 0.0), (False, 1.0)])
def test_of_what_is_absent_it_is_right_to_say_so(stands_out, said):
    nothing = Question("Where?", ())
    found = judged(Says("", recall([NEAR_PASSAGE], [NEAR_PASSAGE], stands_out)), nothing, TEXT, METHOD)
    assert (found.score, found.scores) == (said, {"said_absent": said})
    assert judged(Says("", None), nothing, TEXT, None).score is None
