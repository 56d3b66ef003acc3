"""passkey: the prompt to the character, the key's weights, needles at even depths and near, questions anywhere."""

from __future__ import annotations

import re

import numpy as np
import pytest

from everlong.errors import ConfigError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.passkey import Passkey as Evaluation
from everlong.text.haystack import DULL, KEY, KEY_QUESTION, NOISE, OPENING, PAPER_OPENING
from everlong.train.data import make_task
from everlong.train.tokenizer import UNKNOWN
from tests.train import made

TASK = make_task("passkey")
TOKENIZER = made.closed(TASK)
LENGTH, SEGMENT = 512, 64


def count(text: str) -> int:
    return len(TOKENIZER(text)["input_ids"])


def places(task, samples: int) -> list[tuple[int, int, int]]:
    """(tokens of filler before the needle, behind it, tokens of all) of so many samples."""
    found = []
    for n in range(samples):
        sample = task.samples(TOKENIZER, SEGMENT, LENGTH, 5, n)
        text = made.text(TOKENIZER, sample)
        before, after = text.removeprefix(PAPER_OPENING).split(KEY.format(key=made.answer(TOKENIZER, sample)))
        found.append((count(before), count(after.split(KEY_QUESTION)[0]), len(sample)))
    return found


@pytest.mark.parametrize("kind", ["closed", "bpe", "bytes"])
def test_the_prompt_to_the_character(kind, tmp_path):
    tokenizer = made.tokenizers(TASK, tmp_path)[kind]
    for n in range(10):
        sample = TASK.samples(tokenizer, 100, 1200, 3, n)
        text, key = made.text(tokenizer, sample), made.answer(tokenizer, sample)
        assert re.fullmatch(r"[1-9]\d{4}", key)
        needle = KEY.format(key=key)
        begin, end = text.split(needle)
        filler = (begin.removeprefix(PAPER_OPENING) + end).removesuffix(f"{KEY_QUESTION} {key}")
        assert text == begin + needle + end
        assert begin.startswith(PAPER_OPENING)
        assert filler in NOISE * 60
        assert filler.endswith(DULL)
        assert begin == PAPER_OPENING or begin.endswith(DULL)


def needle_at(sample) -> tuple[int, int]:
    """The tokens of the needle."""
    ids = TOKENIZER(KEY.format(key=made.answer(TOKENIZER, sample)))["input_ids"]
    start = next(n for n in range(len(sample)) if sample.ids[n : n + len(ids)].tolist() == ids)
    return start, start + len(ids)


def test_weights_by_hand():
    task = make_task("passkey", {"second_mention": 0.7, "language": 0.2, "repeat": 64})
    sample = task.samples(TOKENIZER, SEGMENT, LENGTH, 0, 1)
    second = [n for n in range(*needle_at(sample)) if TOKENIZER.decode([sample.ids[n]]).isdigit()][5:]
    expected = np.full(len(sample), 0.2 * 5 / (len(sample) - 1 - 5 - 5))  # all others: 0.2 times the answer's 5
    expected[0], expected[second], expected[-5:] = 0, 0.7, 1
    np.testing.assert_allclose(sample.loss_weight, expected, rtol=1e-6)
    assert TOKENIZER.decode(sample.ids[second].tolist()) == made.answer(TOKENIZER, sample)


def test_segments_with_opening_needle_or_question_are_written_once():
    task, more = make_task("passkey", {"repeat": 512}), set()
    for n in range(30):
        sample = task.samples(TOKENIZER, SEGMENT, LENGTH, 1, n)
        words = np.zeros(len(sample), bool)
        words[: count(PAPER_OPENING)] = words[slice(*needle_at(sample))] = True
        words[-count(KEY_QUESTION + " 12345") :] = True
        for start in range(0, len(sample), SEGMENT):
            (weight,) = set(sample.write_weight[start : start + SEGMENT].tolist())
            assert 1 <= weight <= 512
            assert (weight == 1) == words[start : start + SEGMENT].any()
            more |= {weight}
    assert len(more) > 20


def test_repeats_do_not_change_the_text():
    one, two = (make_task("passkey", {"repeat": w}).samples(TOKENIZER, SEGMENT, LENGTH, 0, 4) for w in (1, 512))
    assert one.ids.tolist() == two.ids.tolist()
    assert one.loss_weight.tolist() == two.loss_weight.tolist()


def test_depth_and_length_are_even_and_the_question_is_not_aligned():
    found = places(TASK, 300)
    depths = np.array([before / (before + after) for before, after, _ in found])
    assert np.abs(np.histogram(depths, bins=4, range=(0, 1))[0] / 300 - 0.25).max() < 0.1
    totals = np.array([tokens for _, _, tokens in found])
    assert totals.min() >= LENGTH / 2
    assert totals.max() <= LENGTH
    assert abs(totals.mean() - 0.75 * LENGTH) < 20
    assert len(set(totals % SEGMENT)) > 0.9 * SEGMENT


def test_the_share_of_near_needles():
    task = make_task("passkey", {"near": 0.3, "near_tokens": 60})
    needle, found = count(KEY.format(key=12_345)), places(task, 300)
    near = [after + needle <= 60 for _, after, _ in found]
    by_chance = np.mean([after + needle <= 60 for _, after, _ in places(TASK, 300)])
    assert abs(np.mean(near) - (0.3 + 0.7 * by_chance)) < 0.08
    always = places(make_task("passkey", {"near": 1, "near_tokens": 60}), 50)
    assert all(after + needle <= 60 for _, after, _ in always)
    assert len({after for _, after, _ in always}) > 3


def test_openings():
    def begins(opening):
        task = make_task("passkey", {"opening": opening})
        return {
            next(o for o in (PAPER_OPENING, OPENING) if made.text(t, s).startswith(o))
            for t in [made.closed(task)]
            for s in (task.samples(t, 64, 256, 0, n) for n in range(12))
        }

    assert begins("paper") == {PAPER_OPENING}
    assert begins("everlong") == {OPENING}
    assert begins("either") == {PAPER_OPENING, OPENING}


def test_what_evaluation_asks_is_in_the_vocabulary():
    tokenizer = made.closed(make_task("passkey", {"opening": "either"}))
    setting = Setting(tokenizer, Data(None))
    for asked in Evaluation(lengths=(300, 900)).make_samples(setting):
        for text in (asked.context, asked.question, " " + asked.gold[0]):
            assert UNKNOWN not in tokenizer.tokenize(text)
        assert asked.length * 0.9 < setting.count(asked.context + asked.question) <= asked.length


def test_the_shortest_sample_has_no_filler():
    least = count(PAPER_OPENING + KEY.format(key=12_345) + KEY_QUESTION + " 12345")
    sample = TASK.samples(TOKENIZER, 16, least, 0, 0)
    assert made.text(TOKENIZER, sample).startswith(PAPER_OPENING + " The pass key is")
    assert len(sample) == least
    with pytest.raises(ConfigError, match=rf"length={least - 1}: too short for passkey's words alone; give at least"):
        TASK.samples(TOKENIZER, 16, least - 1, 0, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"digits": 0}, r"digits=0: expected 1..18 \(digits of a key\)"),
        ({"near": 1.5, "near_tokens": 9}, r"near=1.5: expected 0..1"),
        ({"near": 0.5}, r"near=0.5, near_tokens=0: give both, or leave both out"),
        ({"near_tokens": 50}, r"near=0, near_tokens=50: give both"),
        ({"repeat": 0.5}, r"repeat=0.5: must be at least 1"),
        ({"repeat": "nan"}, r"repeat=nan: must be at least 1"),
        ({"language": -1}, r"language=-1.0: must be at least 0"),
        ({"opening": "nothing"}, r"opening=nothing: expected "),
    ],
)
def test_wrong_options_are_said(options, said):
    with pytest.raises(ConfigError, match=said):
        make_task("passkey", options)


def test_too_little_room_near_the_question_is_said():
    task = make_task("passkey", {"near": 1, "near_tokens": 10})
    with pytest.raises(ConfigError, match=r"near_tokens=10: too few for the needles; give at least 25"):
        task.samples(TOKENIZER, SEGMENT, LENGTH, 0, 0)
