"""What all generated tasks keep to: lengths, seeds, samples that do not depend on each other, gold and silence."""

from __future__ import annotations

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.task import make_task
from tests.evaluate import layouts

CASES = {
    "passkey": ("passkey", {}),
    "passkey in books": ("passkey", {"filler": "books"}),
    "number_string": ("number_string", {}),
    "niah": ("niah", {"needles": 3}),
    "niah in noise": ("niah", {"filler": "noise"}),
    "kv_retrieval": ("kv_retrieval", {}),
    "math_find": ("math_find", {}),
    "babilong": ("babilong", {"subsets": "qa1,qa8"}),
    "babilong in noise": ("babilong", {"subsets": "qa1", "filler": "noise", "examples": 0}),
    "streameval": ("streameval", {"distances": "5,20"}),
    "ruler": ("ruler", {}),
    "ruler in noise": ("ruler", {"filler": "noise", "subsets": "niah_single_2,niah_multiquery"}),
}
HIDDEN = ("passkey", "number_string", "niah", "kv_retrieval")
LENGTHS = (1500, 4096)
LARGEST_STEP = {"kv_retrieval": 110, "streameval": 350, "ruler": 110}
"""Tokens of the largest piece that a text grows by; 40 in all others."""


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layouts.babi(layouts.books(tmp_path_factory.mktemp("data")))


def made(case, folder, seed=0, **more):
    name, options = case
    fields = {"lengths": LENGTHS} | options | more
    return list(make_task(name, fields).make_samples(layouts.setting(folder, seed)))


def test_lengths_are_kept(case, folder):
    found = made(case, folder)
    assert {sample.length for sample in found} == set(LENGTHS)
    for sample in found:
        asked = len(sample.gold) * (60 + 8) if case[0] == "streameval" else 0
        assert sample.length is not None
        assert layouts.total(sample) <= sample.length, sample.id
        assert layouts.total(sample) + asked >= sample.length - LARGEST_STEP.get(case[0], 40), sample.id


def test_gold_scores_one_and_silence_nothing(case, folder):
    task = make_task(*case)
    for sample in made(case, folder):
        assert task.score(" " + ", ".join(sample.gold), sample) == 1
        assert task.score("", sample) == 0
        assert task.score(" I do not know.", sample) == 0


def test_the_seed_decides_and_nothing_else(case, folder):
    first = made(case, folder)
    assert first == made(case, folder)
    assert len({sample.id for sample in first}) == len(first)
    other = made(case, folder, seed=1)
    assert [sample.id for sample in other] == [sample.id for sample in first]
    assert all(a.context != b.context for a, b in zip(first, other, strict=True))


def test_a_sample_does_not_depend_on_others(case, folder):
    few = {sample.id: sample for sample in made(case, folder, lengths=LENGTHS[1:])}
    many = {sample.id: sample for sample in made(case, folder, lengths=(2000, *LENGTHS), samples=2)}
    assert len(many) == 6 * len(few)
    assert all(many[name] == sample for name, sample in few.items())
    assert len({sample.context for sample in many.values()}) == len(many)


def test_what_is_asked_stands_at_its_depth(folder):
    for name in HIDDEN:
        for sample in made((name, {}), folder, depths="0,.3,1"):
            fact = sample.context.find(sample.gold[0]) / len(sample.context)
            assert sample.depth is not None
            assert abs(fact - sample.depth) < 0.12, (name, sample.id, fact)
            assert sample.gold[0] not in sample.question


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"lengths": "0"}, "lengths=0: expected numbers of tokens"),
        ({"samples": 0}, "samples=0: must be at least 1"),
        ({"lengths": "20"}, "lengths.* too few|lengths=20: 0 stories|distances=.*so far back"),
        ({"leng": "60"}, "did you mean 'lengths'"),
    ],
)
def test_bad_options_are_one_clear_line(case, folder, option, says):
    with pytest.raises(ConfigError, match=says) as caught:
        made(case, folder, **option)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "option", "says"),
    [
        ("niah", {"needles": 0}, "needles=0: must be at least 1"),
        ("niah", {"needles": 999}, "needles=999: there are 256 at most"),
        ("niah", {"filler": "boks"}, "filler=boks"),
        ("passkey", {"filler": "boks"}, "filler=boks: does not exist; did you mean 'books'"),
        ("passkey", {"depths": "1.5"}, "depths=1.5: expected numbers from 0"),
        ("number_string", {"depths": ""}, "depths=: expected"),
        ("kv_retrieval", {"depths": "-1"}, "depths=-1.0: expected"),
        ("math_find", {"subsets": "larges"}, "subsets=larges: does not exist; did you mean 'largest'"),
        ("ruler", {"subsets": "niah"}, "subsets=niah: does not exist"),
        ("ruler", {"filler": "essay"}, "filler=essay"),
        ("babilong", {"subsets": "qa11"}, "subsets=qa11: does not exist"),
        ("babilong", {"examples": -1}, "examples=-1: must be 0 or more"),
        ("streameval", {"distances": "0"}, "distances=0: expected numbers of lines"),
        ("streameval", {"origin": "files"}, "origin=files"),
        ("longeval", {"subsets": "300"}, "subsets=300: does not exist"),
    ],
)
def test_bad_fields_are_named(name, option, says):
    with pytest.raises(ConfigError, match=says):
        make_task(name, option)


@pytest.mark.parametrize("name", ["niah", "babilong", "longeval"])
def test_data_that_is_missing_is_named(name):
    with pytest.raises(InputError, match="--data: missing"):
        next(make_task(name).make_samples(layouts.setting()))
