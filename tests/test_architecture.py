"""docs/architecture.md names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_each_file_that_is_named_exists():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"[\w/]+\.py\b", page))
    assert len(names) > 20
    files = [str(path.relative_to(ROOT)) for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert [name for name in names if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []
