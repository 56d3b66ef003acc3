"""everlong report: the files that it writes, and one line for each mistake."""

from __future__ import annotations

import json

import pytest

from tests.report.made import record, refused, write


@pytest.fixture
def results(tmp_path):
    """A folder with two runs."""
    write(tmp_path / "results" / "one", [record(), record(method="sinks", score=0.0)])
    write(tmp_path / "results" / "two", [refused("too long", "9000 tokens", method="dense", id="1")], seed=1)
    return tmp_path / "results"


def test_writes_the_page(everlong, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = everlong("report", results)
    assert ended.code == 0
    assert ended.out == "2 runs, 3 records\n"
    assert ended.err == "Wrote report.html.\nOpen report.html in a browser.\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_writes_markdown_and_json(everlong, results, tmp_path):
    page, tables = tmp_path / "page.html", tmp_path / "tables.md"
    ended = everlong("report", results, "--out", page, "--markdown", tables, "--title", "A & B", "--json")
    assert ended.code == 0
    assert ended.json == {"wrote": [str(page), str(tables)], "runs": 2, "records": 3}
    assert ended.err == ""
    assert "<title>A &amp; B</title>" in page.read_text(encoding="utf-8")
    assert tables.read_text(encoding="utf-8").startswith("## passkey")


def test_quiet_says_only_the_result(everlong, results, tmp_path):
    ended = everlong("report", results, "--out", tmp_path / "page.html", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "2 runs, 3 records\n", "")


def mistake(everlong, message, *arguments):
    ended = everlong("report", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("everlong: ")
    assert len(ended.err.splitlines()) == 1
    assert message in ended.err


def test_each_mistake_is_one_line_and_exit_2(everlong, results, tmp_path):
    page = tmp_path / "page.html"
    mistake(everlong, "no such folder", tmp_path / "absent", "--out", page)
    (tmp_path / "empty").mkdir()
    mistake(everlong, "holds no run", tmp_path / "empty", "--out", page)
    mistake(everlong, "is a folder; give the name of a file in it", results, "--out", tmp_path)
    mistake(everlong, "there is no folder", results, "--out", tmp_path / "absent" / "page.html")
    mistake(everlong, "there is no folder", results, "--out", page, "--markdown", tmp_path / "absent" / "tables.md")
    mistake(everlong, "is the place of the page too", results, "--out", page, "--markdown", page)
    mistake(everlong, "Missing argument 'RESULTS'.")
    assert not page.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json: not the config of a run"),
        ("records.jsonl", "{\n", "records.jsonl: not JSON"),
        ("records.jsonl", json.dumps({"task": "x"}) + "\n", "records.jsonl:1: version: "),
    ],
)
def test_damaged_files_are_one_line_and_exit_2(everlong, results, tmp_path, name, content, message):
    (results / "two" / name).write_text(content)
    mistake(everlong, message, results, "--out", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("there", ["page.html", "tables.md"])
def test_what_is_there_is_written_over_with_force_only(everlong, results, tmp_path, there):
    (tmp_path / there).write_text("mine")
    arguments = ["report", results, "--out", tmp_path / "page.html", "--markdown", tmp_path / "tables.md"]
    mistake(everlong, f"{there}: exists; give another place, or --force to write over it", *arguments[1:])
    assert (tmp_path / there).read_text() == "mine"
    assert everlong(*arguments, "--force").code == 0
    assert (tmp_path / there).read_text() != "mine"
