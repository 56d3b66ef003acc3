"""longeval: official samples, whole or in part, and what is said of damaged ones."""

from __future__ import annotations

import json
import re

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.longeval import SUBSETS, LongEval
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream


def answered(text, question):
    """What a perfect reader says."""
    name = re.findall(r"line (\S+) is <$", question)[0]
    return re.findall(rf"line {name}: REGISTER_CONTENT is <(\d+)>", text)[0] + ">"


def test_text_and_question_are_those_of_the_file(tmp_path):
    setting = layouts.setting(layouts.longeval(tmp_path))
    first, second = LongEval(subsets=("200",)).make_samples(setting)
    assert first.context.startswith("Keep the lines.\n\nline amber-amber-0: REGISTER_CONTENT is <100>\nline basil-")
    assert first.context.endswith("<111>\n")
    assert first.question == ("\nWhat was in line basil-amber-0? The <REGISTER_CONTENT> in line basil-amber-0 is <")
    assert (first.gold, second.gold, second.group) == (("101",), ("1104",), "200")
    for sample in (first, second):
        (outcome,) = LongEval().run(EchoStream(answered), sample)
        assert outcome.score == 1.0
        assert outcome.facts["lines"] == 12


def test_fewer_lines_keep_the_depth(tmp_path):
    setting = layouts.setting(layouts.longeval(tmp_path))
    first, second = LongEval(subsets=("200",), lines=4).make_samples(setting)
    assert re.findall(r"<(\d+)>", first.context) == ["101", "102", "103", "104"]
    assert re.findall(r"<(\d+)>", second.context) == ["1103", "1104", "1105", "1106"]
    assert second.facts == {"lines": 4, "depth": 1 / 3}
    with pytest.raises(ConfigError, match="lines=13: a sample has 12"):
        list(LongEval(subsets=("200",), lines=13).make_samples(setting))


def test_the_first_number_is_judged(tmp_path):
    sample = next(LongEval(subsets=("200",)).make_samples(layouts.setting(layouts.longeval(tmp_path))))
    task = LongEval()
    assert (task.score("101>", sample), task.score(" it is 101 or 7", sample)) == (1, 1)
    assert (task.score("1011", sample), task.score("7 or 101", sample), task.score("", sample)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": "no parts"}, "sample 0: `prompt` does not have `correct_line`"),
        ({"correct_line": "line x: REGISTER_CONTENT is <5>"}, "sample 0: `prompt` does not have"),
        ({"random_idx": "x"}, "sample 0: "),
        ({"expected_number": None}, "200_lines.jsonl:1: lacks the field 'expected_number'"),
    ],
)
def test_damaged_files_are_named(tmp_path, change, says):
    layouts.longeval(tmp_path)
    file = tmp_path / "longeval" / "200_lines.jsonl"
    row = json.loads(file.read_text().split("\n")[0]) | change
    file.write_text(json.dumps({name: value for name, value in row.items() if value is not None}))
    with pytest.raises(InputError, match=says):
        list(LongEval(subsets=("200",)).make_samples(layouts.setting(tmp_path)))


def test_a_missing_subset_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no longeval/400_lines.jsonl"):
        list(LongEval(subsets=("400",)).make_samples(layouts.setting(layouts.longeval(tmp_path))))


def test_the_real_files(data_dir):
    found = list(LongEval().make_samples(Setting(layouts.tokens, Data(data_dir))))
    assert [sum(s.group == subset for s in found) for subset in SUBSETS] == [50, 50, 50]
    for sample in found:
        assert answered(sample.context, sample.question) == sample.gold[0] + ">"
        assert sample.facts["lines"] == int(sample.group)
