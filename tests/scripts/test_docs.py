"""The generated pages: every command and option is there, and a stale file is named."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import everlong
from everlong.evaluate.task import task_class, task_names
from everlong.methods import method_names
from scripts import api, docs


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


PAGE = api.api_page()


@pytest.mark.parametrize("name", [name for name in everlong.__all__ if name != "__version__"])
def test_api_page_has_every_public_name(name: str):
    assert f"`everlong.{name}`" in PAGE or f"### everlong.{name}\n" in PAGE


@pytest.mark.parametrize("cls", [everlong.Session, *api.BESIDE, *api.RETURNED], ids=lambda cls: cls.__name__)
def test_api_page_says_what_each_public_function_does(cls: type):
    section = api.class_section(cls)
    assert section in PAGE
    for name, part in api.public_functions(cls):
        owner = f"{cls.__name__}." if isinstance(part, classmethod) else ""
        assert f"```python\n{owner}{name}(" in section
        assert api.told(getattr(part, "__func__", part)) in section
        assert api.told(getattr(part, "__func__", part))


def test_api_page_has_fields_properties_and_their_texts():
    section = api.class_section(api.GenerationResult)
    assert "- `token_ids: list[int]`: The tokens that the session read back" in section
    assert "- `seen_tokens: int`: Tokens read so far, special ones included." in api.class_section(everlong.Session)
    assert "- `memory: Path | None = None`" in api.class_section(api.Loaded)


def test_a_long_signature_is_broken_at_its_own_commas():
    shown = api.code(f"made(a: dict[str, int]=None, b: tuple[int, int]=(1, 2), {'c' * 90}: int=1) -> list[int]")
    lines = shown.splitlines()
    assert lines[1:4] == ["made(", "    a: dict[str, int]=None,", "    b: tuple[int, int]=(1, 2),"]
    assert lines[-2] == ") -> list[int]"


def test_what_stands_indented_in_a_docstring_is_code():
    def some() -> None:
        """First.

            drawn
              deeper

        Last.
        """

    assert api.told(some) == "First.\n\n```\ndrawn\n  deeper\n```\n\nLast."
