"""babilong: facts in their order between sentences, judged by the words that the first sentence names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.tasks.babilong import SUBSETS, BabiLong, Story, stories
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream

FACT = re.compile(r"(?:Ann|Ben) (?:went to|is in) the \w+\.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layouts.babi(layouts.books(tmp_path_factory.mktemp("data")))


def made(folder, **fields):
    fields = {"subsets": ("qa1",), "lengths": (600,)} | fields
    return list(BabiLong(**fields).make_samples(layouts.setting(folder)))


def test_a_story_for_each_question(folder):
    found = stories(folder / "babi" / "qa1_single-supporting-fact_test.txt")
    assert found[0] == Story(("Ann is in the cellar.",), "Where is Ann?", "cellar")
    assert found[1] == Story(("Ann went to the attic.",), "Where is Ann?", "attic")
    assert found[2] == Story(("Ann went to the attic.", "Ben went to the barn."), "Where is Ben?", "barn")
    assert [len(story.facts) for story in found] == [1, 1, 2, 3, 1, 2, 3]


def test_facts_keep_their_order_and_books_stand_between(folder):
    places = set()
    for sample in made(folder, samples=6, examples=0):
        asked = re.findall(r"Where is (\w+)\?", sample.question)[0]
        facts = FACT.findall(sample.context)
        assert [f for f in facts if asked in f][-1].endswith(f"the {sample.gold[0]}.")
        assert len(facts) == len(sample.facts["depths"])
        assert sample.facts["depths"] == sorted(sample.facts["depths"])
        assert "the tide rose and fell." in sample.context
        places |= set(sample.facts["depths"])
    assert min(places) < 0.3
    assert max(places) > 0.7


def test_worked_examples_are_not_asked_about(folder):
    for sample in made(folder, samples=5, examples=2):
        opening = "Text: Ann is in the cellar.\n\nQuestion: Where is Ann?\nAnswer: cellar\n\nText: Ann went"
        assert opening in sample.context
        assert len(sample.facts["depths"]) > 1 or "Where is Ben?" in sample.question
    with pytest.raises(ConfigError, match="lengths=600: 5 stories of qa1 fit"):
        made(folder, samples=6, examples=2)


def test_long_stories_are_passed_over(folder):
    assert {len(s.facts["depths"]) for s in made(folder, lengths=(60,), samples=5, examples=0)} == {1, 2}
    with pytest.raises(ConfigError, match="lengths=60: 5 stories of qa1 fit; give more tokens"):
        made(folder, lengths=(60,), samples=9, examples=0)


def test_only_the_words_of_the_first_sentence_count(folder):
    sample = made(folder)[0]
    sample = replace(sample, gold=("attic",))
    task = BabiLong()
    assert task.score(" Ann is in the ATTIC. Or the barn.", sample) == 1
    assert task.score(" attic\nbarn", sample) == 1
    assert task.score(" attic or barn", sample) == 0
    assert task.score(" attics", sample) == 0
    assert task.score("", sample) == 0


def test_lists_need_all_their_words_in_any_order(folder):
    found = {s.gold[0]: s for s in made(folder, subsets=("qa8",), samples=2)}
    assert set(found) == {"milk,pear", "nothing"}
    task, both, none = BabiLong(), found["milk,pear"], found["nothing"]
    assert [task.score(said, both) for said in ("a pear and the milk.", "milk", "milk, pear, nothing")] == [1, 0, 0]
    assert [task.score(said, none) for said in (" Nothing at all", "", "no thing", "milk")] == [1, 0, 0, 0]


def test_words_of_the_question_are_left_aside(folder):
    sample = replace(made(folder)[0], question="Is the attic north of the cellar or of the barn?", gold=("barn",))
    words = {"words": ["attic", "barn", "cellar", "hall"]}
    asked = replace(sample, question="What is north of the attic?", facts=words)
    assert BabiLong().score("The barn is north of the attic", asked) == 1
    assert BabiLong().score("The barn is north of the hall", asked) == 0


def test_it_runs(folder):
    sample = made(folder)[0]
    (outcome,) = BabiLong().run(EchoStream(lambda text, question: f" {sample.gold[0]}."), sample)
    assert (outcome.score, outcome.facts) == (1.0, {"depths": sample.facts["depths"]})


@pytest.mark.parametrize("line", ["no number", "x 1 y", "3 Where?\tattic", "2 Where?\tattic\tone"])
def test_damaged_files_are_named(folder, tmp_path, line):
    layouts.babi(layouts.books(tmp_path))
    file = tmp_path / "babi" / "qa1_single-supporting-fact_test.txt"
    file.write_text(f"1 Ann is in the attic.\n\n{line}\n")
    with pytest.raises(InputError, match=r"qa1_.*_test.txt:3: expected a number with a fact or a question") as caught:
        made(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_subset_is_named(folder):
    with pytest.raises(InputError, match=r"has no babi/qa3_\*_test.txt"):
        made(folder, subsets=("qa3",))


@pytest.mark.parametrize("subset", SUBSETS)
def test_gold_of_every_real_question_scores_one(data_dir, subset):
    task = BabiLong(subsets=(subset,), lengths=(2000,), samples=50, filler="noise")
    found = list(task.make_samples(layouts.setting(data_dir)))
    assert len(found) == 50
    assert all(task.score(f" {s.gold[0]}.", s) == 1 and task.score("", s) == 0 for s in found)
    every = stories(data_dir / "babi" / next(f.name for f in (data_dir / "babi").glob(f"{subset}_*")))
    for story in every:
        sample = replace(found[0], gold=(story.answer,), question=f"\n\nQuestion: {story.question}\nAnswer:")
        assert task.score(story.answer, sample) == 1, story
