"""`everlong eval` from end to end."""

from __future__ import annotations

import json

import pytest

PASSKEY = ("passkey", "--lengths", "300", "--depths", ".1,.9")
WINDOW = ("--method", "transformers,sinks", "-o", "sinks.window=60", "--chunk", 32)


@pytest.fixture
def evaluates(everlong, tiny, tmp_path):
    """Runs `everlong eval` on the tiny model, with records in the test's folder."""
    return lambda *arguments: everlong("eval", *arguments, "--model", tiny, "--out", tmp_path / "out")


def test_json_holds_the_interface(evaluates, tmp_path):
    ended = evaluates(*PASSKEY, *WINDOW, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.json) == 4
    row = ended.json[0]
    names = {"task", "version", "method", "model", "length", "depth", "n", "score", "seconds", "peak_rss_bytes"}
    assert names <= set(row)
    assert (row["task"], row["method"], row["length"], row["depth"], row["n"]) == (
        "passkey",
        "transformers",
        300,
        0.1,
        1,
    )
    assert row["score"] in (0.0, 1.0)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"config.json", "records.jsonl", "summary.json"}


def test_the_table_and_what_comes_next(evaluates, tmp_path):
    ended = evaluates(*PASSKEY, *WINDOW)
    assert ended.code == 0
    assert len([line for line in ended.out.splitlines() if line.startswith("passkey")]) == 4
    assert f"Next: everlong report {tmp_path / 'out'}" in ended.err


def test_the_same_command_goes_on_and_another_is_refused(evaluates, tmp_path):
    first = evaluates(*PASSKEY, *WINDOW, "--json").json
    assert evaluates(*PASSKEY, *WINDOW, "--json").json == first
    other = evaluates(*PASSKEY, "--method", "sinks", "-o", "window=50", "--chunk", 32, "--json")
    assert other.code == 2
    assert other.err.count("\n") == 1
    assert "holds a run with entries" in other.err


def test_many_samples_at_once_say_the_same_and_what_runs_alone_is_named(evaluates, tmp_path):
    one = evaluates(*PASSKEY, *WINDOW, "--json").json
    (tmp_path / "out").rename(tmp_path / "one")
    ended = evaluates(*PASSKEY, *WINDOW, "--batch", 2)
    assert ended.code == 0
    assert "One at a time: transformers (has no engine).\n" in ended.err
    many = evaluates(*PASSKEY, *WINDOW, "--batch", 3, "--json").json  # goes on with what is there
    names = ("method", "depth", "n", "score", "prompt_tokens")
    assert sorted(str([row[n] for n in names]) for row in many) == sorted(str([row[n] for n in names]) for row in one)
    refused = evaluates(*PASSKEY, "--batch", 0)
    assert refused.code == 2


def test_a_recipe_says_the_same(everlong, evaluates, tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny}\nchunk: 32\ntasks:\n  - name: passkey\n    lengths: [300]\n    depths: [0.1, 0.9]\n"
        "methods:\n  - transformers\n  - name: sinks\n    window: [40, 60]\n"
    )
    ended = everlong("eval", "--config", recipe, "--out", tmp_path / "recipe-out", "--json")
    assert ended.code == 0, ended.err
    assert [(r["method"], r["settings"].get("window")) for r in ended.json[:3]] == [
        ("transformers", None), ("sinks", 40), ("sinks", 60)
    ]  # fmt: skip
    by_hand = evaluates(*PASSKEY, *WINDOW, "--json").json
    config = json.loads((tmp_path / "recipe-out" / "config.json").read_text())
    assert config["plan"]["chunk"] == 32
    assert [r["score"] for r in by_hand if r["method"] == "transformers"] == [
        r["score"] for r in ended.json if r["method"] == "transformers"
    ]


def test_the_command_line_wins_over_the_recipe(everlong, tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny}\ntasks: passkey\nmethods: [window]\n")
    given = ("--method", "transformers", "--lengths", 300, "--depths", 0.5)
    ended = everlong("eval", "--config", recipe, *given, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert [(r["method"], r["length"]) for r in ended.json] == [("transformers", 300)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "TASK: missing; `everlong eval list` names the tasks"),
        (("pass",), "task 'pass': does not exist; did you mean 'passkey'"),
        (("passkey", "--method", "sink"), "method 'sink': does not exist; did you mean 'sinks'"),
        (("passkey", "--subsets", "a"), "--subsets a: no effect on passkey; leave it out"),
        (("passkey", "--lengths", "x"), "lengths=x: expected"),
        (("passkey", "--lengths", "5"), "lengths=.*too few tokens"),
        (("passkey", "--depths", "1.5"), "depths=1.5: expected numbers from 0"),
        (("passkey", "--method", "sinks,window", "-o", "window=5"), "-o window=5: of which\\? write -o sinks.window=5"),
        (("passkey", "--method", "sinks", "-o", "dense.x=5"), "-o dense.x: 'dense' is not among sinks"),
        (("passkey", "-t", "fillers=5"), "task passkey has no option 'fillers'; did you mean 'filler'"),
        (("passkey", "--data", "/nowhere"), "--data /nowhere: no such file or folder"),
        (("passkey", "-t", "filler=books", "--data", __file__[: __file__.rindex("/")]), "has no books/\\*.txt"),
    ],
)
def test_a_mistake_is_one_line(evaluates, monkeypatch, arguments, says):
    import re

    monkeypatch.delenv("EVERLONG_DATA", raising=False)
    ended = evaluates(*arguments, "--json")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert re.search(says, ended.err), ended.err


def test_the_list_names_every_task(everlong):
    rows = everlong("eval", "list", "--json").json
    by_name = {row["task"]: row for row in rows}
    assert by_name["passkey"]["options"]["lengths"]["help"]
    assert by_name["passkey"]["version"] == 1
    assert "passkey" in everlong("eval", "list").out
