"""ruler: what each sub-task hides is really there, and is judged as the paper judges."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.haystack import NOISE
from everlong.evaluate.ruler.counting import zipf
from everlong.evaluate.tasks.ruler import SUBSETS, Ruler
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream

NEEDLE = re.compile(r" The magic (number|code) of (\S+) is (\S+)\.")
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layouts.books(tmp_path_factory.mktemp("data"))


def made(subset, folder=None, length=3000, **fields):
    (sample,) = Ruler(subsets=(subset,), lengths=(length,), **fields).make_samples(layouts.setting(folder))
    return sample


def asked(sample):
    """The keys in the question."""
    which = re.search(r"of (.+)\? The magic", sample.question)
    assert which
    return re.split(r", | and ", which[1])


def test_there_are_eleven():
    assert len(SUBSETS) == 11
    assert [s.group for s in Ruler(lengths=(3000,)).make_samples(layouts.setting())] == list(SUBSETS)


@pytest.mark.parametrize(
    ("subset", "key", "value", "needles", "golds"),
    [
        ("niah_single_1", "word", "number", 1, 1),
        ("niah_single_2", "word", "number", 1, 1),
        ("niah_single_3", "word", "code", 1, 1),
        ("niah_multikey_1", "word", "number", 4, 1),
        ("niah_multikey_2", "word", "number", None, 1),
        ("niah_multikey_3", "code", "code", None, 1),
        ("niah_multivalue", "word", "number", 4, 4),
        ("niah_multiquery", "word", "number", 4, 4),
    ],
)
def test_needles(folder, subset, key, value, needles, golds):
    sample = made(subset, folder)
    found = NEEDLE.findall(sample.context)
    assert (len(found) == needles) if needles else (len(found) > 20)
    held = [v for name in asked(sample) for _, k, v in found if k == name]
    assert sorted(held) == sorted(sample.gold)
    assert len(set(sample.gold)) == golds
    forms = {"word": "[a-z]+-[a-z]+", "number": r"[1-9]\d{6}", "code": UUID}
    assert all(re.fullmatch(forms[key], k) and re.fullmatch(forms[value], v) for _, k, v in found)
    distinct = len(found) if subset != "niah_multivalue" else 1
    assert len({k for _, k, _ in found}) == distinct


def test_haystacks(folder):
    assert NOISE in made("niah_single_1", folder).context
    essay = made("niah_single_2", folder)
    assert "the tide rose and fell" in essay.context
    assert NOISE not in essay.context
    assert made("niah_single_2", folder, filler="noise").context.count(NOISE) > 50
    assert made("niah_single_2").facts == {"essay": "noise"}
    assert essay.facts == {"essay": "books"}
    opening = "Magic numbers are hidden in this text. Keep them in mind."
    assert NEEDLE.sub("", made("niah_multikey_2", folder).context) == opening


def test_a_chain_of_five_variables():
    sample = made("vt")
    _, example, text = sample.context.split("Text:")
    chain = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)\.", text)
    assert [name for name, _ in chain] == list(sample.gold)
    assert [source for _, source in chain[1:]] == list(sample.gold[:-1])
    assert f"the value {chain[0][1]}?" in sample.question
    assert not set(sample.gold) & set(re.findall(r"[A-Z]{5}", example))
    shown = re.findall(r"VAR ([A-Z]{5}) = ", example)
    assert example.rstrip().endswith(f"These 5 variables have it: {', '.join(shown)}")


@pytest.mark.parametrize(("length", "often", "rarely"), [(6000, 30, 3), (2000, None, 1)])
def test_ten_words_are_common(length, often, rarely):
    sample = made("cwe", length=length)
    _, example, text = sample.context.split("List: ")
    words = re.findall(r"(\d+)\. ([a-z]+)", text)
    assert [int(n) for n, _ in words] == list(range(1, len(words) + 1))
    counts = Counter(word for _, word in words)
    common = [counts.pop(word) for word in sample.gold]
    assert set(counts.values()) == {rarely}
    assert len(set(common)) == 1
    assert common[0] == often or (often is None and 3 <= common[0] < 30)
    assert not set(sample.gold) & set(re.findall("[a-z]{6}", example.split("\n")[0]))


def test_three_words_are_frequent():
    sample = made("fwe", length=6000)
    counts = Counter(sample.context.removeprefix("Text in code: ").split())
    ((dots, most), *rest) = counts.most_common(5)
    assert dots == "..."
    assert tuple(word for word, _ in rest[:3]) == sample.gold
    assert [n for _, n in rest] == pytest.approx([most / 4, most / 9, most / 16, most / 25], abs=1)
    assert sum(zipf(10_000)) == pytest.approx(10_000, rel=0.02)


def test_scores_are_the_share_and_whether_any_was_found(folder):
    task, sample = Ruler(), made("niah_multiquery", folder)
    stream = EchoStream(lambda text, question: f"{sample.gold[2]} and {sample.gold[0]}")
    (outcome,) = task.run(stream, sample)
    assert (outcome.score, outcome.scores, outcome.facts) == (0.5, {"part": 1.0}, {"essay": "books"})
    (silent,) = task.run(EchoStream(), sample)
    assert (silent.score, silent.scores) == (0.0, {"part": 0.0})


@pytest.mark.parametrize("subset", ["cwe", "fwe", "vt", "niah_multikey_3"])
def test_too_few_tokens_are_said(subset):
    with pytest.raises(ConfigError, match=r"lengths.* too few"):
        made(subset, length=60)
