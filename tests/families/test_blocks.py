"""Block memory on every family: the same however the input is cut, plain transformers while all fits, or a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import everlong
from everlong import Blocks
from everlong.errors import AttachError, CapabilityError
from tests.families.chosen import each
from tests.families.configs import FAMILIES, TRAINED
from tests.families.models import build, plain, stream, tokens

SMALL = {"sinks": 3, "block": 5, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6, "codec": "native"}
REFUSED = ("ALiBi", "share their keys", "native window", "repeated keys", "tokens alone")
FITS = 48
TEXT = tokens(120)


@pytest.mark.parametrize("family", each(FAMILIES))
def test_same_for_any_cut_or_refused(family):
    model = build(family)
    try:
        handle = everlong.attach(model, Blocks(window=12, **SMALL))
    except AttachError as error:
        pytest.skip(f"cannot be attached: {str(error)[:80]}")
    with handle, torch.no_grad():
        try:
            cache = handle.new_cache(16)
        except CapabilityError as error:
            if not any(reason in str(error) for reason in REFUSED):
                raise
            return
        expected = stream(model, cache, TEXT, 50)
        allowed = 1e-4 * max(1.0, float(expected.abs().max()))
        got = stream(model, handle.new_cache(16), TEXT, 7)
        assert (got - expected).abs().max() <= allowed
        with everlong.attach(model, Blocks(window=TRAINED, **SMALL)) as roomy:
            got = stream(model, roomy.new_cache(), TEXT[:, :FITS], 7)
        assert (got - plain(model, TEXT[:, :FITS])).abs().max() <= allowed


@pytest.mark.parametrize("positions", ["ordered", "far"])
def test_layers_that_all_slide_get_blocks_within_their_window(positions):
    """As if they did not slide: what comes back stands nearer than their window reaches."""
    family = next(f for f in FAMILIES if f.name == "mistral")
    found = []
    for native in (51, None):
        model = build(replace(family, deep={"sliding_window": native}))
        with everlong.attach(model, Blocks(window=12, positions=positions, **SMALL)) as handle:
            found.append(stream(model, handle.new_cache(16), TEXT, (11, 11, 11, 30, *[1] * 40)))
    assert (found[0] - found[1]).abs().max() <= 1e-5


def test_layers_that_slide_over_less_are_refused():
    family = next(f for f in FAMILIES if f.name == "mistral")
    model = build(replace(family, deep={"sliding_window": 50}))
    too_small = pytest.raises(CapabilityError, match=r"last 50 tokens alone.*would reach over 51.*smaller window")
    with everlong.attach(model, Blocks(window=12, **SMALL)) as handle, too_small:
        handle.new_cache(16)
    model = build(replace(family, deep={"sliding_window": 60}))
    farther = pytest.raises(CapabilityError, match="positions=true puts blocks farther away")
    with everlong.attach(model, Blocks(window=12, positions="true", **SMALL)) as handle, farther:
        handle.new_cache(16)
