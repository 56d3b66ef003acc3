"""LongBench and MiniLongBench: official layouts read, prompts cut, answers scored as by the official scorer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Sample, Setting, make_task
from everlong.evaluate.tasks.longbench import SCORERS, Longbench
from tests.evaluate.fakes import EchoStream
from tests.evaluate.metrics import naive

PROMPTS = dict.fromkeys(SCORERS, "Look:\n{context}\n\nSo answer: {input}\nA:") | {"trec": "{context}\n{input}"}
MAXLENS = {subset: n + 1 for n, subset in enumerate(SCORERS)}
GOLD = {"passage_retrieval_en": "Paragraph 3", "passage_retrieval_zh": "段落3", "passage_count": "3", "lcc": "x = 1"}
CLASSES = ["Food", "Date", "gulls cried"]
NAIVE = {
    "dureader": naive.rouge_l_zh,
    "vcsum": naive.rouge_l_zh,
    "multifieldqa_zh": naive.f1_zh,
    **dict.fromkeys(("gov_report", "qmsum", "multi_news", "samsum"), naive.rouge_l),
    **dict.fromkeys(("passage_retrieval_en", "passage_retrieval_zh"), naive.retrieval),
    "passage_count": naive.count,
    **dict.fromkeys(("lcc", "repobench-p"), naive.code_similarity),
}


def row(subset: str, n: int = 0, **more) -> dict:
    answers = [GOLD.get(subset, "gulls cried"), "7"] if subset not in ("trec", "lsht") else ["gulls cried"]
    answers = answers[:1] if "passage" in subset else answers
    fields = {"input": f"who {n}?", "context": f"the {{tide}} {n}", "answers": answers, "all_classes": CLASSES}
    return fields | {"length": 3, "language": "en", "_id": f"id{n}"} | more


def mini(subset: str, n: int = 0, **more) -> dict:
    fields = {"dataset": subset, "id": n, "prompt": f"Look:\nthe tide {n}\n\nSo answer: who {n}?\nA:"}
    return fields | {"answers": row(subset)["answers"], "all_classes": CLASSES, "example_prediction": "-"} | more


def write(folder: Path, config: str = "", prompts=PROMPTS, maxlens=MAXLENS, **files: list[dict]) -> Data:
    for place, content in (("dataset2prompt.json", prompts), ("dataset2maxlen.json", maxlens)):
        (folder / config).mkdir(parents=True, exist_ok=True)
        (folder / config / place).write_text(json.dumps(content), encoding="utf-8")
    for name, rows in files.items():
        place = folder / f"{name.replace('__', '-')}.jsonl"
        place.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return Data(folder)


def samples(data: Data, seed: int = 0, **options) -> list[Sample]:
    return list(make_task("longbench", options).make_samples(Setting(None, data, seed)))


def test_the_official_layout_becomes_text_and_question(tmp_path):
    data = write(tmp_path, hotpotqa=[row("hotpotqa", 0), row("hotpotqa", 1)], trec=[row("trec")], other=[{}])
    first, second, third = samples(data)
    assert first.id == "LongBench/hotpotqa/id0"
    assert (first.context, first.question) == ("Look:\nthe {tide} 0", "\n\nSo answer: who 0?\nA:")
    assert (first.gold, first.max_new_tokens, first.group) == (("gulls cried", "7"), MAXLENS["hotpotqa"], "hotpotqa")
    assert first.stop == ()
    assert second.id == "LongBench/hotpotqa/id1"
    assert (third.group, third.context, third.question) == ("trec", "the {tide} 0", "\nwho 0?")


def test_settings_may_lie_in_config_and_samples_in_data(tmp_path):
    write(tmp_path / "longbench", "config")
    (tmp_path / "longbench" / "data").mkdir()
    place = tmp_path / "longbench" / "data" / "lcc.jsonl"
    place.write_text(json.dumps(row("lcc")), encoding="utf-8")
    for data in (tmp_path, tmp_path / "longbench", place):
        assert [sample.group for sample in samples(Data(data))] == ["lcc"]


def test_minilongbench_never_calls_itself_longbench(tmp_path):
    data = write(tmp_path, minilongbench=[mini("hotpotqa", 3), mini("trec"), mini("lcc")])
    found = samples(data)
    assert [sample.id for sample in found] == [
        "MiniLongBench/hotpotqa/3",
        "MiniLongBench/trec/0",
        "MiniLongBench/lcc/0",
    ]
    assert (found[0].context, found[0].question) == ("Look:\nthe tide 3", "\n\nSo answer: who 3?\nA:")
    assert (found[0].group, found[0].max_new_tokens) == ("hotpotqa", MAXLENS["hotpotqa"])
    for sample in found:
        assert Longbench().judged("", sample).facts == {"benchmark": "MiniLongBench"}
    assert [sample.group for sample in samples(data, subsets="lcc,trec")] == ["trec", "lcc"]


def test_the_right_answer_of_every_subset_scores_1_and_none_0(tmp_path):
    write(tmp_path, **{subset.replace("-", "__"): [row(subset)] for subset in SCORERS})
    found = samples(Data(tmp_path))
    assert [sample.group for sample in found] == list(SCORERS)
    for sample in found:
        for gold in sample.gold:
            assert Longbench().score(gold, sample) == pytest.approx(1, abs=1e-8)
        assert Longbench().score("", sample) == 0
        assert Longbench().score("xyz", sample) < 0.5


def test_the_first_line_of_few_shot_answers_counts_and_all_of_others(tmp_path):
    write(tmp_path, triviaqa=[row("triviaqa")], hotpotqa=[row("hotpotqa")], trec=[row("trec")])
    hotpotqa, trec, triviaqa = samples(Data(tmp_path))
    task = Longbench()
    assert task.score("\n\ngulls cried\nDate Food", triviaqa) == 1
    assert task.score(" \ngulls cried", triviaqa) == 0
    assert task.score("\ngulls cried\nDate", trec) == 1
    assert task.score("gulls cried Date", trec) == 1 / 2
    assert task.score("\ngulls cried\nDate Food", hotpotqa) == pytest.approx(2 / 3)


def test_a_stream_is_fed_asked_and_judged(tmp_path):
    (sample,) = samples(write(tmp_path, hotpotqa=[row("hotpotqa")]))
    stream = EchoStream(lambda text, question: "seven 7")
    (outcome,) = Longbench().run(stream, sample)
    assert stream.fed == [(sample.context, "text")]
    assert [(asked.question, asked.max_new_tokens) for asked in stream.asked] == [(sample.question, 5)]
    assert (outcome.prediction, outcome.gold) == ("seven 7", ["gulls cried", "7"])
    assert outcome.score == pytest.approx(2 / 3)
    assert outcome.facts == {"benchmark": "LongBench"}


def test_samples_depend_on_nothing_but_the_files(tmp_path):
    data = write(tmp_path, hotpotqa=[row("hotpotqa", n) for n in range(3)], lcc=[row("lcc")])
    assert samples(data) == samples(data, seed=5)
    assert samples(data, subsets="hotpotqa") == samples(data)[:3]


@pytest.mark.parametrize("subsets", ["hotpot", "longbench", "LCC"])
def test_an_unknown_subset_names_the_nearest(subsets):
    with pytest.raises(ConfigError, match=rf"^subsets={subsets}: does not exist; .*known: 2wikimqa, dureader"):
        make_task("longbench", {"subsets": subsets})


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        ({"hotpotqa": [row("hotpotqa")]}, {"subsets": "lcc"}, r"has no samples of lcc; give its file"),
        ({"other": [{}]}, {}, r"has no samples of any subset"),
        ({"minilongbench": [mini("lcc")], "lcc": [row("lcc")]}, {}, r"is MiniLongBench and has lcc.jsonl of LongBench"),
        ({"minilongbench": [mini("lcc", dataset="poems")]}, {}, r"dataset 'poems': is no subset of LongBench"),
        ({"minilongbench": [{"dataset": "lcc"}]}, {}, r"minilongbench.jsonl:1: lacks the field 'id'"),
        ({"hotpotqa": [{"input": ""}]}, {}, r"hotpotqa.jsonl:1: lacks the field 'context'"),
        ({"hotpotqa": [row("hotpotqa", answers="x")]}, {}, r"LongBench/hotpotqa/id0: answers is not a list of texts"),
        ({"hotpotqa": [row("hotpotqa", answers=[])]}, {}, r"answers is not a list"),
        ({"trec": [row("trec", all_classes=None)]}, {}, r"LongBench/trec/id0: all_classes is not a list of texts"),
        ({"lcc": [row("lcc")], "prompts": {}}, {}, r"dataset2prompt.json has None for lcc, expected str"),
        ({"lcc": [row("lcc")], "maxlens": {"lcc": "9"}}, {}, r"dataset2maxlen.json has '9' for lcc, expected int"),
        ({"lcc": [row("lcc")], "prompts": {"lcc": "{input}"}}, {}, r"sample 1: the template has no {context}"),
        ({"lcc": [row("lcc")], "prompts": {"lcc": "{context}{x}"}}, {}, r"cannot be filled in \(KeyError\('x'\)\)"),
    ],
)
def test_files_that_are_not_as_they_should_be_give_one_line(tmp_path, files, options, says):
    data = write(tmp_path, **files)
    with pytest.raises(InputError, match=says) as caught:
        samples(data, **options)
    assert "\n" not in str(caught.value)


def test_missing_settings_files_are_named(tmp_path):
    data = write(tmp_path, lcc=[row("lcc")])
    (tmp_path / "dataset2maxlen.json").unlink()
    with pytest.raises(
        InputError, match=r"has no dataset2maxlen.json beside it or in config; take it from LongBench's"
    ):
        samples(data)


def test_real_predictions_score_as_an_independent_implementation_scores_them(data_dir):
    """All 237 of MiniLongBench, 15 to 75 of each family; `naive` is the implementation written for these tests."""
    file = data_dir / "longbench" / "minilongbench.jsonl"
    if not file.is_file():
        pytest.skip(f"needs real predictions: {file} is missing")
    found = {(r["dataset"], str(r["id"])): r for r in map(json.loads, file.read_text("utf-8").splitlines())}
    judged, told = 0, set[str]()
    for sample in samples(Data(data_dir)):
        real = found[sample.group, sample.id.split("/")[2]]
        assert sample.context + sample.question == real["prompt"]
        assert 0 < len(sample.question) < 4000
        said, first = real["example_prediction"], ("trec", "triviaqa", "samsum", "lsht")
        line = next(iter(said.lstrip("\n").split("\n"))) if sample.group in first else said
        if sample.group in ("lcc", "repobench-p") and importlib.util.find_spec("Levenshtein"):
            continue
        if sample.group in ("trec", "lsht"):
            wanted = max(naive.classification(line, gold, real["all_classes"]) for gold in real["answers"])
        else:
            wanted = naive.best(NAIVE.get(sample.group, naive.f1))(line, real["answers"])
        assert Longbench().score(said, sample) == pytest.approx(wanted, abs=1e-12), sample.id
        if sample.group not in told:
            assert Longbench().score(real["answers"][-1], sample) == pytest.approx(1, abs=1e-8), sample.id
        told.add(sample.group)
        judged += 1
    assert judged == 237 or importlib.util.find_spec("Levenshtein")
