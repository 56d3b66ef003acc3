"""The texts of each kind: their facts, depths and questions."""

from __future__ import annotations

import re

import pytest

from everlong.evaluate.recall.kinds import KINDS, MOST_QUESTIONS
from everlong.evaluate.recall.meaning import NAMES, PAIRS
from everlong.evaluate.tasks.recall import RecallTask
from tests.evaluate import layouts

LENGTH = 6000
TAIL = 1500
_FUNCTION_WORDS = """
    a an the of in on at to for by from with and or as is are was were be has have had not never only all any than then
    that who whom it its do does cannot can more ever after before within across up out since
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layouts.books(tmp_path_factory.mktemp("data"))


def made(folder, kind, seed=0, **options):
    fields = {"kinds": (kind,), "lengths": (LENGTH,), "tail": TAIL} | options
    return list(RecallTask(**fields).make_samples(layouts.setting(folder, seed)))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_a_text_fills_its_length_with_the_longest_question(folder, kind):
    (sample,) = made(folder, kind)
    count = layouts.setting().count
    questions = sample.facts["questions"]
    asked = [count(q.text) + count(q.joint.join(q.gold)) for q in questions]
    assert count(sample.context) + max(asked) <= LENGTH
    assert count(sample.context) + max(asked) >= LENGTH - 300
    assert len(questions) == 8
    assert (sample.group, sample.length, sample.question) == (kind, LENGTH, questions[0].text)


def test_each_fact_stands_there_once_and_the_question_does_not_say_it(folder, kind):
    (sample,) = made(folder, kind)
    for question in sample.facts["questions"]:
        assert all(sample.context.count(fact) == 1 for fact in question.facts)
        for gold in question.gold:
            assert gold.strip() not in question.text
            assert any(gold.strip() in fact for fact in question.facts)
        assert bool(question.gold) == bool(question.facts) == (kind != "absent")


def test_facts_are_spread_from_the_head_to_the_tail(folder, kind):
    if kind == "absent":
        pytest.skip("absent facts stand nowhere")
    samples = made(folder, kind, texts=3)
    places = [s.context.index(f) / len(s.context) for s in samples for q in s.facts["questions"] for f in q.facts]
    last = 1 - TAIL / LENGTH
    # Of `changed` the newer sentences count, and they stand behind the older ones.
    assert min(places) < (0.6 if kind == "changed" else 0.2) * last + 0.05
    assert 0.75 * last < max(places) < last + 0.03
    # Asked in no order: a question's number says nothing about the depth of its fact.
    first = [[s.context.index(q.facts[0]) for q in s.facts["questions"]] for s in samples]
    assert all(places != sorted(places) for places in first)


def test_the_seed_decides_and_nothing_else(folder, kind):
    first = made(folder, kind, texts=2)
    assert first == made(folder, kind, texts=2)
    assert made(folder, kind, texts=1, kinds=("codes", kind))[-1] == first[0]
    other = made(folder, kind, seed=1, texts=2)
    contexts = [sample.context for sample in (*first, *other)]
    assert len(set(contexts)) == 4
    if kind in ("named", "nolima"):
        # Texts of books begin at places of their own.
        assert len({context[150:400] for context in contexts}) == 4


def test_as_many_questions_as_may_be(folder, kind):
    (sample,) = made(folder, kind, questions=MOST_QUESTIONS, lengths=(12000,))
    assert len({question.text for question in sample.facts["questions"]}) == MOST_QUESTIONS


def test_the_newer_value_comes_later_and_is_right(folder):
    (sample,) = made(folder, "changed")
    for question in sample.facts["questions"]:
        name = re.search(r"What is the (.*) now\?", question.text)[1]
        older = re.search(rf"The {name} is (\S+)\.", sample.context)
        newer = re.search(rf"The {name} was changed to (\S+)\.", sample.context)
        assert older.end() < newer.start()
        assert question.gold == (f" {newer[1]}",) != (f" {older[1]}",)


def test_what_is_absent_is_of_the_form_of_what_is_there(folder):
    (sample,) = made(folder, "absent")
    for question in sample.facts["questions"]:
        name = re.search(r"What is (the .*)\?", question.text)[1]
        assert name.lower() not in sample.context.lower()
        form = re.sub(r"the \w+ (\w+)$", r"the \\w+ \1", name)
        assert len(re.findall(form, sample.context, re.IGNORECASE)) == 8


def test_two_hops_meet_in_the_thing_that_the_question_does_not_name(folder):
    (sample,) = made(folder, "twohop")
    for question in sample.facts["questions"]:
        near, far = question.facts
        box = re.search(r"lies in (the .*)\.", near)[1]
        assert far.lower().startswith(box)
        assert box not in question.text
        assert re.search(r"is (in the .*)\.", far)[1].endswith(question.gold[0].strip())


def test_a_list_asks_for_all_things_of_a_person(folder):
    (sample,) = made(folder, "list")
    for question in sample.facts["questions"]:
        owner = question.facts[0].split()[0]
        assert len(re.findall(rf"\b{owner} \w+ a ", sample.context)) == len(question.gold) == 3


def stems(text):
    return {word[:5] for word in re.findall(r"[a-z]+", text.lower()) if word not in FUNCTION_WORDS}


def test_questions_of_meaning_share_no_content_word_with_their_fact():
    assert len(PAIRS) >= 16
    assert len(set(NAMES)) == len(NAMES)
    for says, asks in PAIRS:
        assert stems(says)
        assert stems(asks)
        assert not stems(says) & stems(asks), (says, asks)
        assert says.startswith("{} ")
