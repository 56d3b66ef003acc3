"""docs/families.md says what the models do."""

from __future__ import annotations

import pytest

from scripts.families import stale


@pytest.mark.heavy(reason="every family in short: what is left at each push of those that are slow")
def test_the_page_is_fresh():
    assert stale() == [], "run: python -m scripts.families"
