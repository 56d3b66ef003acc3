"""The generated pages: every command and option is there, and a stale file is named."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from everlong.evaluate.task import task_class, task_names
from everlong.methods import method_names
from scripts import docs


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of docs/ that the script works on."""
    shutil.copytree(docs.DOCS, tmp_path / "docs")
    monkeypatch.setattr(docs, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert docs.main() == 0
    return tmp_path / "docs"


def test_command_line_page_has_every_verb_and_its_options(copied: Path):
    page = (copied / "cli.md").read_text(encoding="utf-8")
    for verb in ("generate", "chat", "score", "bench", "doctor", "demo"):
        assert f"## everlong {verb}\n" in page
    assert "| `--max-tokens` |" in page
    assert "| `--option FIELD=VALUE`, `-o FIELD=VALUE` |" in page
    assert "everlong score FILE [OPTIONS]" in page


@pytest.mark.parametrize("name", method_names())
def test_method_page_has_the_table_of_its_fields(name: str, copied: Path):
    page = (copied / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert docs.options_table(docs.method_class(name)) in page


@pytest.mark.parametrize("name", task_names())
def test_tasks_page_has_every_task_and_its_options(name: str, copied: Path):
    page = (copied / "tasks.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n{name}: " in page
    assert docs.task_section(task_class(name)) in page


def test_check_names_the_stale_file(copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 0
    page = copied / "methods" / "sinks.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| `window` |", "| `windows` |"), encoding="utf-8")
    assert docs.main() == 1
    assert f"{page}: stale" in capsys.readouterr().err


def test_page_without_markers_is_refused(copied: Path):
    (copied / "methods" / "sinks.md").write_text("# sinks\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no lines"):
        docs.main()


def test_table_keeps_bars_and_lines_inside_their_cell():
    assert docs.table(("a",), [("x | y\nz",)]) == "| a |\n| --- |\n| x \\| y z |"


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (False, ""), (0, "`0`"), (0.0, "`0.0`"), ("auto", "`auto`")])
def test_default_is_shown_unless_absent_or_off(value: object, shown: str):
    assert docs.shown_default(value) == shown
