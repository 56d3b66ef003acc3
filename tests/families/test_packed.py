"""Every family packed: each stream as if it were alone, far beyond the window too; and which are not packed."""

from __future__ import annotations

import pytest
import torch

from everlong.engine import batch
from everlong.engine.stream import StreamPiece, TokenStream
from everlong.hooks.packed_check import unpackable
from everlong.models.load import Loaded
from tests.families.chosen import each
from tests.families.configs import FAMILIES, Family
from tests.families.measure import TIGHT
from tests.families.models import build, tokens

READ = (0, 150, 31)
ALONE = {
    "llama dynamic": "the row's length changes its angles",
    "phi3 longrope": "the row's length changes its angles",
    "llama4": "its queries are scaled by places in the row: found by trying",
    "qwen2_vl": "a forward around its decoder makes positions",
} | dict.fromkeys(("deepseek_v2", "deepseek_v3", "mistral4", "jetmoe"), "it attends to other keys than it caches")
ALONE |= dict.fromkeys(("falcon", "falcon new decoder", "mpt", "bloom", "gptj"), "it has an attention of its own")
"""Families whose streams are read one by one, and why."""
PIECES = ((9, 1, 7), (1, 1, 1), (30, 5, 1), (1, 20, 1))


@pytest.mark.parametrize("family", each(f for f in FAMILIES if f.refused is None))
def test_packed_streams_are_as_if_alone(family: Family):
    model = build(family)
    text = tokens(400)[0]
    streams, alone = ([TokenStream(Loaded(model, None, "m"), TIGHT, 40) for _ in READ] for _ in range(2))
    for n, one in enumerate(READ):
        for each_of in (streams, alone):
            each_of[n].feed(text[:one])
    at = list(READ)
    for sizes in PIECES:
        parts = [text[a : a + n] for a, n in zip(at, sizes, strict=True)]
        at = [a + n for a, n in zip(at, sizes, strict=True)]
        batch.read([StreamPiece(stream, part) for stream, part in zip(streams, parts, strict=True)])
        for stream, one, part in zip(streams, alone, parts, strict=True):
            one.feed(part)
            torch.testing.assert_close(stream.prediction, one.prediction, atol=1e-4, rtol=0)
    assert (unpackable(model) is not None) == (family.name in ALONE)
    for one in (*streams, *alone):
        one.close()
