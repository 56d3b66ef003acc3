"""docs/families.md says what the models do."""

from __future__ import annotations

from scripts.families import stale


def test_the_page_is_fresh():
    assert stale() == [], "run: python -m scripts.families"
