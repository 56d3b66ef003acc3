"""InfiniteBench: official files and templates read, answers scored by subset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Sample, Setting, make_task
from everlong.evaluate.tasks.infinitebench import NEW_TOKENS, Infinitebench
from tests.evaluate.fakes import EchoStream

CHOICE = "{context}\nWhich?\nA {OPTION_A}\nB {OPTION_B}\nC {OPTION_C}\nD {OPTION_D}\n{question}:"
YARN = dict.fromkeys(NEW_TOKENS, "Look.\n{context}\n{input} It is") | {
    "code_run": "Of {func}:\n{context}\n{func_call} gives",
    "code_debug": CHOICE,
    "longbook_choice_eng": CHOICE,
    "math_find": "{prefix}\n{context}\n{input}",
    "math_calc": "{context}\nValues:",
}
TEMPLATES = {"yarn_mistral_templates": YARN, "gpt4_templates": {"passkey": "{context}"}}
ANSWERS = {
    "passkey": "72333",
    "number_string": ["5002"],
    "kv_retrieval": "b33c-1",
    "longbook_sum_eng": "the tide rose",
    "longbook_choice_eng": "sea",
    "longbook_qa_eng": ["the tide", "tides"],
    "longbook_qa_chn": ["北京"],
    "longdialogue_qa_eng": ["MARSHA"],
    "math_find": 89,
    "math_calc": [1, 4, 8],
    "code_run": [-6],
    "code_debug": ["sea"],
}
INPUTS = {"code_run": "What does func_7(-3) return?", "math_find": "Answer. The largest number of the list is: "}


def row(subset: str, n: int = 0, **more: Any) -> dict:
    fields = {"id": n, "context": f"the {{tide}} {n}", "input": INPUTS.get(subset, f"what {n}?")}
    return fields | {"answer": ANSWERS[subset], "options": ["air", "sea", "land", "fire"]} | more


def write(folder: Path, templates: Any = TEMPLATES, **files: list[dict]) -> Data:
    (folder / "prompts.json").write_text(json.dumps(templates), encoding="utf-8")
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Data(folder)


def samples(data: Data, seed: int = 0, **options: Any) -> list[Sample]:
    return list(make_task("infinitebench", options).make_samples(Setting(None, data, seed)))


def test_every_subset_becomes_text_and_question(tmp_path):
    found = {s.group: s for s in samples(write(tmp_path, **{subset: [row(subset)] for subset in NEW_TOKENS}))}
    assert list(found) == sorted(NEW_TOKENS)
    passkey = found["passkey"]
    assert (passkey.id, passkey.context, passkey.question) == ("passkey/0", "Look.\nthe {tide} 0", "\nwhat 0? It is")
    assert (passkey.gold, passkey.length) == (("72333",), None)
    code = found["code_run"]
    assert (code.context, code.question) == ("Of func_7:\nthe {tide} 0", "\nfunc_7(-3) gives")
    assert found["math_find"].context == "Look for the largest number in this list:\nthe {tide} 0"
    assert found["longbook_choice_eng"].question == "\nWhich?\nA air\nB sea\nC land\nD fire\nwhat 0?:"
    assert found["longbook_choice_eng"].gold == found["code_debug"].gold == ("B. sea",)
    assert found["math_calc"].gold == ("1, 4, 8",)
    assert {subset: sample.max_new_tokens for subset, sample in found.items()} == dict(NEW_TOKENS)


def test_the_opening_of_math_find_is_the_files_where_it_has_one(tmp_path):
    (sample,) = samples(write(tmp_path, math_find=[row("math_find", prompt="Find it:")]))
    assert sample.context.startswith("Find it:\nthe")


def test_the_right_answer_scores_1_and_none_0(tmp_path):
    for sample in samples(write(tmp_path, **{subset: [row(subset)] for subset in NEW_TOKENS})):
        assert [Infinitebench().score(gold, sample) for gold in sample.gold] == [1] * len(sample.gold)
        assert Infinitebench().score("", sample) == 0
        assert Infinitebench().score("xyz", sample) == 0


def test_a_name_of_two_words_is_never_found(tmp_path):
    (sample,) = samples(write(tmp_path, longdialogue_qa_eng=[row("longdialogue_qa_eng", answer=["MRS WHITE"])]))
    assert Infinitebench().score("MRS WHITE", sample) == 0


def test_files_of_other_lengths_are_groups_in_order(tmp_path):
    names = ("passkey_16384", "passkey_8192", "passkey", "code_run", "passkey_long", "other")
    data = write(tmp_path, **{name: [row(name.split("_")[0] if "run" not in name else name)] for name in names[:4]})
    write(tmp_path, passkey_long=[{}], other=[{}])
    found = [(sample.group, sample.length) for sample in samples(data)]
    assert found == [("code_run", None), ("passkey", None), ("passkey_8192", 8192), ("passkey_16384", 16384)]
    assert [sample.group for sample in samples(data, subsets="passkey")] == [group for group, _ in found[1:]]
    assert [s.id for s in samples(data, subsets="passkey_8192,code_run")] == ["code_run/0", "passkey_8192/0"]


def test_templates_and_tokens_are_chosen(tmp_path):
    data = write(tmp_path, passkey=[row("passkey")])
    (sample,) = samples(data, template="gpt4", max_new_tokens=4)
    assert (sample.context, sample.question, sample.max_new_tokens) == ("the {tide} 0", "", 4)
    with pytest.raises(ConfigError, match=r"^template=gpt5: is not in .*prompts.json; did you mean 'gpt4'\?"):
        samples(data, template="gpt5")


def test_a_stream_is_fed_asked_and_judged(tmp_path):
    (sample,) = samples(write(tmp_path, math_calc=[row("math_calc")]))
    stream = EchoStream(lambda text, question: " [1, 4, 9]")
    (outcome,) = Infinitebench().run(stream, sample)
    assert stream.fed == [("the {tide} 0", "text")]
    assert [(asked.question, asked.max_new_tokens) for asked in stream.asked] == [("\nValues:", 30000)]
    assert (outcome.prediction, outcome.gold) == (" [1, 4, 9]", ["1, 4, 8"])
    assert outcome.score == pytest.approx(2 / 3)


def test_samples_depend_on_nothing_but_the_files(tmp_path):
    data = write(tmp_path, passkey=[row("passkey", n) for n in range(3)], code_run=[row("code_run")])
    assert samples(data) == samples(data, seed=5)
    assert samples(data, subsets="passkey") == samples(data)[1:]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subsets": "passkeys"}, r"^subsets=passkeys: does not exist; did you mean 'passkey'"),
        ({"subsets": "passkey_8K"}, r"^subsets=passkey_8K: does not exist"),
        ({"max_new_tokens": 0}, r"^max_new_tokens=0: must be at least 1"),
    ],
)
def test_wrong_options_give_one_line(options, says):
    with pytest.raises(ConfigError, match=says):
        make_task("infinitebench", options)


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        ({"passkey": [row("passkey")]}, {"subsets": "code_run"}, r"has no file such as code_run.jsonl; give it, or"),
        ({"other": [{}]}, {}, r"has no file such as passkey.jsonl"),
        ({"passkey": [{"input": ""}]}, {}, r"passkey.jsonl:1: lacks the field 'context'"),
        ({"passkey": [row("passkey", answer=None)]}, {}, r"passkey.jsonl: sample 1: got None as the answer"),
        ({"passkey": [row("passkey", answer=[])]}, {}, r"got \[\] as the answer"),
        ({"code_run": [row("code_run", input="what?")]}, {}, r"input names no call such as func_1\(2\)"),
        ({"code_debug": [row("code_debug", answer="ice")]}, {}, r"'ice' is not one of four options"),
        ({"code_debug": [row("code_debug", options=["sea"])]}, {}, r"'sea' is not one of four options"),
        (
            {"passkey": [row("passkey")], "templates": {"yarn_mistral_templates": {}}},
            {},
            r"yarn_mistral has no text for p",
        ),
        (
            {"passkey": [row("passkey")], "templates": {"yarn_mistral_templates": {"passkey": "{context}{x}"}}},
            {},
            r"cannot be filled in \(KeyError\('x'\)\)",
        ),
    ],
)
def test_files_that_are_not_as_they_should_be_give_one_line(tmp_path, files, options, says):
    data = write(tmp_path, **files)
    with pytest.raises(InputError, match=says) as caught:
        samples(data, **options)
    assert "\n" not in str(caught.value)


def test_missing_templates_are_named(tmp_path):
    data = write(tmp_path, passkey=[row("passkey")])
    (tmp_path / "prompts.json").unlink()
    with pytest.raises(
        InputError, match=r"prompts.json: missing; write the dictionaries of the official src/prompt.py"
    ):
        samples(data)


def test_the_real_files_are_read_whole_and_their_answers_score_1(data_dir):
    place = data_dir / "infinitebench"
    if not (place / "prompts.json").is_file():
        pytest.skip(f"needs InfiniteBench's files: {place} has no prompts.json")
    found = samples(Data(data_dir))
    contexts = {}
    for file in place.glob("*.jsonl"):
        rows = map(json.loads, file.read_text("utf-8").splitlines())
        contexts |= {f"{file.stem}/{real['id']}": real["context"] for real in rows}
    assert {sample.id for sample in found} == set(contexts)
    for sample in found:
        assert sample.context.endswith(contexts[sample.id])
        assert sample.question
        assert [Infinitebench().score(gold, sample) for gold in sample.gold] == [1]
        assert Infinitebench().score("", sample) == 0
