"""docs/families.md says what the models do."""

from __future__ import annotations

import pytest

from scripts.families import stale
from tests.families.chosen import PUSH, REST
from tests.families.configs import FAMILIES

CHOSEN = tuple(family for family in FAMILIES if family.name in PUSH or family.refused)


@pytest.mark.parametrize("families", [pytest.param(CHOSEN, id="ten"), pytest.param(FAMILIES, id="all", marks=REST)])
def test_the_page_is_fresh(families):
    assert stale(families) == [], "run: python -m scripts.families"
