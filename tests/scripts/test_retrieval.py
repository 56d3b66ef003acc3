"""The retrieval benchmark: prompts as in the files, shorter samples, scores, records that go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import everlong
from benchmarks import retrieval
from everlong.models.load import Loaded

LINE_NAMES = ("torpid-kid", "bright-contact lens", "sharp-echo", "oval-box", "gifted-tea")


def longeval_row(asked: int = 1) -> dict[str, Any]:
    lines = [f"line {name}: REGISTER_CONTENT is <{n}07>" for n, name in enumerate(LINE_NAMES)]
    prompt = "Below is a record. Now the record start:\n\n" + "\n".join(lines) + "\n\nNow the record is over. Tell me? "
    return {
        "random_idx": [LINE_NAMES[asked], asked],
        "expected_number": int(f"{asked}07"),
        "correct_line": lines[asked] + "\n",
        "prompt": prompt,
    }


def of_lines(total: int, asked: int) -> retrieval.Sample:
    records = tuple(f"line n{n}: <{n}>" for n in range(total))
    return retrieval.Sample("0", "Lines:\n", records, "\n", "\n", asked, f"n{asked}", str(asked))


@pytest.fixture
def infinitebench(tmp_path: Path) -> Path:
    templates = {
        "number_string": "Find it.\n\n{context}\n\n{input}",
        "kv_retrieval": "Extract.\n\n{context}\n\n{input}",
    }
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"yarn_mistral_templates": templates}), encoding="utf-8")
    return tmp_path


def test_longeval_text_is_that_of_the_prompt():
    row = longeval_row()
    sample = retrieval.longeval(row, "3", Path())
    assert row["prompt"].startswith(sample.text + "\nNow the record is over.")
    assert (sample.id, sample.name, sample.answer) == ("3", "bright-contact lens", "107")
    assert sample.records[sample.asked] == "line bright-contact lens: REGISTER_CONTENT is <107>"


def test_kv75_text_is_that_of_its_authors():
    pairs = [["a-1", "v-1"], ["b-2", "v-2"]]
    sample = retrieval.kv75({"ordered_kv_records": pairs, "key": "b-2", "value": "v-2"}, "0", Path())
    assert sample.text.endswith('JSON data:\n{"a-1": "v-1",\n "b-2": "v-2"}')
    assert (sample.asked, sample.name, sample.answer) == (1, "b-2", "v-2")


def test_kv_retrieval_text_is_introduction_and_context(infinitebench: Path):
    context = 'JSON data:\n{"a-1": "v-1", "b-2": "v-2", "c-3": "v-3"}'
    row = {"id": 7, "context": context, "input": '\nKey: "c-3"\nThe value is: ', "answer": "v-3"}
    sample = retrieval.kv_retrieval(row, "0", infinitebench)
    assert sample.text == f"Extract.\n\n{context}"
    assert (sample.id, sample.asked, sample.name, sample.answer) == ("7", 2, "c-3", "v-3")


def test_number_string_text_is_introduction_and_context(infinitebench: Path):
    context = "Grass.\nThe sequence of digits is 0022. Remember it. 0022 is the sequence of digits.\nGrass.\n"
    row = {"id": 31, "context": context, "input": "What is the sequence of digits?", "answer": "0022"}
    sample = retrieval.number_string(row, "0", infinitebench)
    assert sample.text == f"Find it.\n\n{context}"
    assert (sample.id, sample.asked, sample.answer) == ("31", 1, "0022")


@pytest.mark.parametrize("asked", [0, 1, 5, 9, 10])
@pytest.mark.parametrize("keep", [2, 3, 7, 11])
def test_trimmed_keeps_the_asked_line_and_its_depth(asked: int, keep: int):
    whole = of_lines(11, asked)
    short = retrieval.trimmed(whole, keep)
    assert len(short.records) == keep
    assert short.records[short.asked] == whole.records[asked]
    assert f"<{short.answer}>" in short.text
    first = whole.records.index(short.records[0])
    assert short.records == whole.records[first : first + keep]
    assert abs(short.asked / (keep - 1) - asked / 10) <= 0.5 / (keep - 1)
    assert short.question("{example}") in set(short.records) - {whole.records[asked]}


@pytest.mark.parametrize("keep", [1, 12])
def test_trimmed_to_what_is_not_there_is_refused(keep: int):
    with pytest.raises(ValueError, match=f"keep={keep}: sample 0 has 11 records; give a number from 2 to 11"):
        retrieval.trimmed(of_lines(11, 4), keep)


@pytest.mark.parametrize("limit", [60, 63, 100, 10_000])
def test_fitting_takes_as_much_as_goes_in(limit: int):
    whole, form = of_lines(100, 63), "{example}, {name}?"
    short = retrieval.fitting(whole, form, limit, len)
    assert short.records[short.asked] == whole.records[63]
    assert len(short.text) + len(short.question(form)) <= limit
    if len(short.records) < 100:
        longer = retrieval.trimmed(whole, len(short.records) + 1)
        assert len(longer.text) + len(longer.question(form)) > limit


def test_fitting_into_too_little_is_refused():
    with pytest.raises(ValueError, match="max_tokens=10: too few for two records"):
        retrieval.fitting(of_lines(3, 1), "Which?", 10, len)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("107", True), (" 107> and 9", True), ("the number 107", True), ("1070", False), ("9 107", False), ("", False)],
)
def test_first_number(answer: str, right: bool):
    assert retrieval.first_number(answer, "107") is right


def test_first_number_keeps_leading_zeros():
    assert retrieval.first_number(" 0022.", "0022")
    assert not retrieval.first_number(" 22.", "0022")


@pytest.mark.parametrize(("answer", "right"), [("ab-12", True), ('x ab-12"', True), ("ab-1", False), ("AB-12", False)])
def test_contained(answer: str, right: bool):
    assert retrieval.contained(answer, "ab-12") is right


@pytest.mark.parametrize("name", retrieval.TASKS)
def test_every_form_names_what_is_asked(name: str):
    for form in retrieval.TASKS[name].questions:
        assert "n2" in of_lines(5, 2).question(form)


def row(number: str, right: bool | None, method: str = "dense()") -> dict[str, Any]:
    return {"task": "kv75", "id": number, "settings": {"method": method, "records": 20}, "right": right}


def test_summary_counts_what_did_not_fit_apart():
    rows = [row("0", True), row("1", False), row("2", None), row("0", True, "blocks()")]
    dense, blocks = retrieval.summary(rows)
    assert (dense["right"], dense["n"], dense["does_not_fit"]) == (1, 2, 1)
    assert (blocks["method"], blocks["right"], blocks["n"]) == ("blocks()", 1, 1)


def test_dense_that_does_not_fit_says_so():
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=32))
    tokenizer = lambda text, **_: {"input_ids": list(text.encode())}  # noqa: E731
    loaded = Loaded(SimpleNamespace(config=config), tokenizer, "none")
    sample, task = of_lines(5, 2), retrieval.TASKS["longeval_200"]
    found = retrieval.run(loaded, everlong.Dense(), 512, task, sample, "line n2: <")
    assert (found["right"], found["prediction"]) == (None, "does not fit in 32 tokens")
    assert found["prompt_tokens"] == len(sample.text) + 10


def test_settings_hold_the_fields_left_at_their_defaults():
    assert retrieval.described(everlong.Blocks()) != retrieval.described(everlong.Blocks(top_k=4, neighbours=1))
    assert "neighbours=0" in retrieval.described(everlong.Blocks())


def test_dense_is_always_the_first():
    names = [method.name for method in retrieval.methods("sinks:sinks=64:window=1024,blocks")]
    assert names == ["dense", "sinks", "blocks"]
    assert [method.name for method in retrieval.methods("blocks,dense")] == ["dense", "blocks"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "kv74"], "--task kv74: does not exist"),
        (["--task", "kv75", "--lines", "20"], "--lines: no effect on kv75"),
        (["--task", "longeval_200", "--keys", "20"], "--keys: no effect on longeval_200"),
        (["--task", "kv75", "--form", "9"], "--form 9: kv75 has the forms 0 to"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(sys, "argv", ["retrieval.py", *options, "--out", "x.json"])
    with pytest.raises(SystemExit, match="2"):
        retrieval.arguments()
    assert message in capsys.readouterr().err


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which (sample, method) main() ran over four made-up samples; nothing is loaded."""
    folder = tmp_path / "longeval"
    folder.mkdir()
    text = "".join(json.dumps(longeval_row(asked)) + "\n" for asked in range(4))
    (folder / "200_lines.jsonl").write_text(text, encoding="utf-8")
    found: list[tuple[str, str]] = []

    def run(
        loaded: Any, method: Any, chunk: int, task: retrieval.Task, sample: retrieval.Sample, question: str
    ) -> dict[str, Any]:
        if len(found) == 3:
            found.append(("interrupt", ""))
            raise KeyboardInterrupt
        found.append((sample.id, method.name))
        fields = {"prompt_tokens": len(sample.text), "expected": sample.answer, "prediction": "7", "seconds": 1.0}
        return fields | {"right": False, "report": {}}

    monkeypatch.setattr(retrieval, "run", run)
    monkeypatch.setattr(everlong, "load", lambda *_, **__: SimpleNamespace(tokenizer=None))
    options = ["--task", "longeval_200", "--methods", "dense,blocks", "--lines", "3", "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["retrieval.py", *options, "--out", str(tmp_path / "record.json")])
    return found


def test_an_interrupted_record_goes_on(runs: list[tuple[str, str]], tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        retrieval.main()
    record = tmp_path / "record.json"
    assert len(json.loads(record.read_text())["rows"]) == 3
    retrieval.main()
    runs.remove(("interrupt", ""))
    assert runs == [(str(n), method) for n in range(4) for method in ("dense", "blocks")]
    found = json.loads(record.read_text())
    assert [(group["right"], group["n"]) for group in found["summary"]] == [(0, 4), (0, 4)]
    assert found["rows"][0]["records"] == [3, 5]
    assert found["rows"][0]["trimmed"] is True
    assert len(found["commands"]) == 2
    retrieval.main()
    assert len(runs) == 8


@pytest.mark.parametrize("name", retrieval.TASKS)
def test_real_samples_hold_their_answer_where_it_is_asked(name: str, data_dir: Path):
    task = retrieval.TASKS[name]
    if not (data_dir / task.file).exists():
        pytest.skip(f"needs {data_dir / task.file}")
    for sample in retrieval.samples(task, data_dir, 5):
        assert sample.answer in sample.records[sample.asked]
        assert sample.name in sample.records[sample.asked]
        assert sum(sample.name in record for record in sample.records) == 1
        assert sample.answer in retrieval.trimmed(sample, 2).text
