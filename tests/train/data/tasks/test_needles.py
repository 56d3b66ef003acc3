"""needles: several keys with names, each asked for as often as any other."""

from __future__ import annotations

import re

import numpy as np
import pytest

from everlong.errors import ConfigError
from everlong.text.haystack import KEY, KEY_OF, KEY_OF_QUESTION, KEY_QUESTION, NAMES, NOISE, PAPER_OPENING
from everlong.train.data import make_task
from tests.train import made

NEEDLE = re.compile(r" The pass key of (\w+) is (\d+)\. Remember it\. (\d+) is the pass key of (\w+)\.")


@pytest.mark.parametrize("needles", [2, 5])
def test_the_answer_is_the_key_of_the_name(needles):
    task = make_task("needles", {"needles": needles})
    tokenizer = made.closed(task)
    orders, names = [], set()
    for n in range(60):
        sample = task.samples(tokenizer, 64, 512, 0, n)
        text, key = made.text(tokenizer, sample), made.answer(tokenizer, sample)
        found = NEEDLE.findall(text)
        assert len(found) == len({name for name, *_ in found}) == len({k for _, k, *_ in found}) == needles
        assert all(one == two and k == again for one, k, again, two in found)
        (place,) = [i for i, (_, k, *_) in enumerate(found) if k == key]
        asked = found[place][0]
        assert text.endswith(KEY_OF_QUESTION.format(name=asked) + " " + key)
        filler = text.removeprefix(PAPER_OPENING).removesuffix(KEY_OF_QUESTION.format(name=asked) + " " + key)
        assert NEEDLE.sub("", filler) in NOISE * 30
        orders.append(place)
        names |= {name for name, *_ in found}
    assert set(orders) == set(range(needles))
    assert names == set(NAMES)


def test_the_second_mention_of_every_key_counts():
    task = make_task("needles")
    tokenizer = made.closed(task)
    sample = task.samples(tokenizer, 64, 512, 0, 0)
    keys = [key for _, key, *_ in NEEDLE.findall(made.text(tokenizer, sample))]
    assert tokenizer.decode(sample.ids[sample.loss_weight == 0.5].tolist()) == "".join(keys)


def test_the_asked_one_is_near_wherever_the_others_are():
    task = make_task("needles", {"near": 1, "near_tokens": 90})
    tokenizer = made.closed(task)
    for n in range(40):
        sample = task.samples(tokenizer, 64, 512, 0, n)
        text, key = made.text(tokenizer, sample), made.answer(tokenizer, sample)
        name = text.split("The pass key of ")[-1].split()[0]
        _, behind = text.split(KEY_OF.format(name=name, key=key))
        needle = len(tokenizer(KEY_OF.format(name=name, key=key))["input_ids"])
        between = behind.removesuffix(KEY_OF_QUESTION.format(name=name) + " " + key)
        assert len(tokenizer(between)["input_ids"]) + needle <= 90


def test_segments_with_a_key_are_written_once():
    task = make_task("needles", {"repeat": 100, "needles": 3})
    tokenizer = made.closed(task)
    sample = task.samples(tokenizer, 8, 1024, 0, 0)
    digits = np.array([tokenizer.decode([i]).isdigit() for i in sample.ids])
    weights = [sample.write_weight[at : at + 8] for at in range(0, len(sample), 8)]
    held = [digits[at : at + 8].any() for at in range(0, len(sample), 8)]
    assert all((part == part[0]).all() for part in weights)
    assert all(part[0] == 1 for part, key in zip(weights, held, strict=True) if key)
    assert sum(part[0] > 1 for part in weights) > 30


def test_every_key_is_asked_for_once_in_an_order_drawn_by_chance():
    task = make_task("needles", {"needles": [1, 4], "questions": "all", "opening": "none"})
    tokenizer = made.closed(task)
    counts, orders = set(), set()
    for n in range(60):
        sample = task.samples(tokenizer, 32, 300, 0, n)
        text = made.text(tokenizer, sample)
        said = [tokenizer.decode(sample.ids[a:b].tolist()) for a, b in sample.answers]
        counts.add(len(said))
        assert (np.concatenate([sample.loss_weight[a:b] for a, b in sample.answers]) == 1).all()
        if len(said) == 1:
            (key,) = said
            assert text.endswith(KEY_QUESTION + " " + key)
            assert KEY.format(key=key) in text
            continue
        found = {key: name for name, key, *_ in NEEDLE.findall(text)}
        assert set(said) == set(found)
        assert text.endswith("".join(f"{KEY_OF_QUESTION.format(name=found[key])} {key}" for key in said))
        assert "dull text" not in text
        orders.add(tuple(sorted(said, key=text.find)) == tuple(said))
    assert counts == {1, 2, 3, 4}
    assert orders == {True, False}


def test_a_fixed_count_draws_what_it_drew_before_there_were_ranges():
    fixed, pair = (make_task("needles", {"needles": given}) for given in (3, [3, 3]))
    tokenizer = made.closed(fixed)
    assert all(made.same(*(t.samples(tokenizer, 64, 512, 0, n) for t in (fixed, pair))) for n in range(5))


def test_alike_keys_are_made_of_few_digits_and_others_stay_as_they_were():
    plain, half, whole = (make_task("needles", {"needles": 4, "alike": share}) for share in (0, 0.5, 1))
    tokenizer = made.closed(plain)

    def keys(task, n):
        return [key for _, key, *_ in NEEDLE.findall(made.text(tokenizer, task.samples(tokenizer, 64, 512, 0, n)))]

    for n in range(30):
        found = keys(whole, n)
        assert len(set(found)) == 4
        assert all(re.fullmatch(r"[1-9]{5}", key) for key in found)
        assert len(set("".join(found))) <= 4
    few = sum(len(set("".join(keys(half, n)))) <= 4 for n in range(60))
    assert 15 <= few <= 45
    assert not any(len(set("".join(keys(plain, n)))) <= 4 for n in range(60))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alike": 1.5}, r"alike=1.5: expected 0..1"),
        ({"alike": 0.5, "digits": 9}, r"alike=0.5: needs 2 to 8 digits; leave it out, or change digits"),
        ({"needles": 1}, r"needles=1: expected 2..16 \(keys in a sample"),
        ({"needles": [0, 3]}, r"needles=0: expected 1..16"),
        ({"needles": [4, 2]}, r"needles=2: expected 4..16"),
        ({"questions": "some"}, r"questions"),
        ({"needles": 17}, r"needles=17: expected"),
        ({"digits": 1}, r"digits=1: too few for 16 different keys; give more"),
    ],
)
def test_wrong_options_are_said(options, said):
    with pytest.raises(ConfigError, match=said):
        make_task("needles", options)
