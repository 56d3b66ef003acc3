"""What a decoder consists of is compared before each token, by the extension and without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everlong.hooks.program import switch as watch
from everlong.models.packed_linear import PackedLinear
from everlong.ops.native import extension


@pytest.fixture(params=["extension", "python"])
def decoder(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(watch, "extension", lambda: None)
    elif extension() is None:
        pytest.skip("the C extension was not built")
    packed = PackedLinear.of(nn.Linear(32, 32), "int8")
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), packed)


def _part(decoder):
    decoder[0] = nn.Linear(4, 4)


def _gone(decoder):
    del decoder._modules["1"]


def _parameter(decoder):
    decoder[0].weight = nn.Parameter(decoder[0].weight.detach())


def _storage(decoder):
    decoder[0].weight.data = decoder[0].weight.data.clone()


def _in_place(decoder):
    decoder[1].running_mean.add_(1)


def _packed(decoder):
    decoder[2].packed = decoder[2].packed.clone()


def _hook(decoder):
    decoder[1].register_forward_hook(lambda *given: None)


def _own_forward(decoder):
    decoder[0].forward = lambda x: x


CHANGES = [_part, _gone, _parameter, _storage, _in_place, _packed, _hook, _own_forward]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen(decoder, change):
    seen = watch.Watch(decoder)
    assert seen.plain()
    assert seen.same()
    with torch.no_grad():
        change(decoder)
    assert not seen.same()


def test_a_sample_is_not_computed_with(decoder):
    seen = watch.Watch(decoder)
    decoder[2].sample.add_(1)
    assert seen.same()


@pytest.mark.skipif(extension() is None, reason="the C extension was not built")
@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (([],), TypeError, "1 arguments, expected 6"),
        (((), [], [], [], [], ""), TypeError, "argument 1 is no list"),
        (([{}], [], [], [], [], ""), ValueError, "expected 1 names"),
        (([1], ["a"], [2], [], [], ""), TypeError, "item 0 is no dict"),
        (([], [], [], [], [{}], []), TypeError, "unhashable"),
    ],
)
def test_what_is_no_list_of_dicts_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        extension().unchanged(*given)
