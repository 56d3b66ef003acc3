"""What was kept of a family's model serves it again: the same numbers, without a probe."""

from __future__ import annotations

import copy

import pytest
import torch

from everlong.engine.stream import TokenStream
from everlong.hooks import kept, patch
from everlong.models.load import Loaded
from tests.families.chosen import each
from tests.families.configs import FAMILIES, Family
from tests.families.measure import TIGHT
from tests.families.models import build, tokens


@pytest.mark.parametrize("family", each(f for f in FAMILIES if f.refused is None))
def test_a_kept_family_gives_the_same(family: Family, monkeypatch, tmp_path):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "FEWEST_WEIGHTS", 0)
    text = tokens(70)[0]
    found = []
    first = build(family)
    second = copy.deepcopy(first)
    for model in (first, second):
        with TokenStream(Loaded(model, None, "m"), TIGHT, 40) as stream:
            stream.feed(text[:60])
            for token in text[60:].tolist():
                stream.feed([token])
                found.append(stream.prediction)
        monkeypatch.setattr(patch, "probe", lambda *args: pytest.fail("probed again"))
    assert torch.equal(torch.stack(found[:10]), torch.stack(found[10:]))
