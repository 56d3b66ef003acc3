"""passkey: the key in the filler, judged by how the answer begins."""

from __future__ import annotations

import re

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.haystack import KEY_QUESTION as QUESTION
from everlong.evaluate.haystack import NOISE, OPENING
from everlong.evaluate.tasks.passkey import Passkey
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream


def test_a_sample_by_hand():
    (sample,) = Passkey(lengths=(200,), depths=(0.5,)).make_samples(layouts.setting())
    key = sample.gold[0]
    fact = f" The pass key is {key}. Remember it. {key} is the pass key."
    assert sample.context == OPENING + NOISE * 2 + fact + NOISE * 2
    assert re.fullmatch(r"[1-9]\d{4}", key)
    assert (sample.question, sample.id, sample.length, sample.depth) == (QUESTION, "200-0.5-0", 200, 0.5)


def test_only_the_beginning_counts():
    (sample,) = Passkey(lengths=(300,), depths=(0.0,)).make_samples(layouts.setting())
    task, key = Passkey(), sample.gold[0]
    assert task.score(f"\n {key}0 and so on", sample) == 1
    assert task.score(f"It is {key}", sample) == 0
    assert task.score(key[:-1], sample) == 0


def test_the_text_is_read_before_the_question(tmp_path):
    task = Passkey(lengths=(600,), depths=(0.9,), filler="books")
    (sample,) = task.make_samples(layouts.setting(layouts.books(tmp_path)))
    stream = EchoStream(lambda text, question: " " + re.findall(r"key is (\d+)", text)[-1])
    (outcome,) = task.run(stream, sample)
    assert (outcome.score, outcome.gold) == (1.0, list(sample.gold))
    assert stream.fed == [(sample.context, "text")]
    assert [asked.question for asked in stream.asked] == [QUESTION]
    assert "the tide rose and fell" in sample.context
    assert NOISE not in sample.context


def test_every_length_depth_and_number_has_a_sample():
    found = list(Passkey(lengths=(200, 300), depths=(0.1, 0.9), samples=2).make_samples(layouts.setting()))
    assert [s.id for s in found] == [f"{a}-{b}-{n}" for a in (200, 300) for b in (0.1, 0.9) for n in (0, 1)]
    assert len({s.gold for s in found}) == 8


def test_of_several_keys_one_is_asked_for_by_its_owner():
    (sample,) = Passkey(lengths=(600,), depths=(0.3,), needles=3).make_samples(layouts.setting())
    owners = dict(re.findall(r"The pass key of (\w+) is (\d{5})", sample.context))
    (asked,) = re.findall(r"What is the pass key of (\w+)\?", sample.question)
    assert len(owners) == 3
    assert owners[asked] == sample.gold[0]
    with pytest.raises(ConfigError, match="needles=17: there are names for 16; give fewer"):
        Passkey(needles=17)
