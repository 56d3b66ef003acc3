"""Block memory on every family: the same however the input is cut, plain transformers while all fits, or a reason."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong import Blocks
from everlong.errors import AttachError, CapabilityError
from tests.families.chosen import each
from tests.families.configs import FAMILIES, TRAINED
from tests.families.models import build, plain, stream, tokens

SMALL = {"sinks": 3, "block": 5, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6, "codec": "native"}
REFUSED = ("MLA", "ALiBi", "share their keys", "native window", "repeated keys")
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
