"""Packed weights in one piece of memory: the same weights, in order, once."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch

from everlong.models import weight_room
from everlong.models.packed_linear import pack_model, packed_layers
from tests.models.tiny import tiny_model

IDS = torch.arange(20)[None] % 250


@pytest.fixture
def model():
    made = tiny_model(hidden_size=64)
    pack_model(made, "int4")
    return made


def gathered(model, monkeypatch):
    monkeypatch.setattr(weight_room, "_LEAST", 0)
    weight_room.gather(model)
    return [layer.packed for _, layer in packed_layers(model)]


def test_weights_lie_one_behind_the_other_in_the_order_of_layers(model, monkeypatch):
    before = [layer.packed.clone() for _, layer in packed_layers(model)]
    after = gathered(model, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len({x.untyped_storage().data_ptr() for x in after}) == 1
    starts = [x.data_ptr() for x in after]
    assert [b - a for a, b in pairwise(starts)] == [x.nbytes for x in after[:-1]]
    assert all(start % 64 == 0 for start in starts)
    end = after[-1].data_ptr() + after[-1].nbytes
    room = after[0].untyped_storage()
    assert room.data_ptr() + room.nbytes() >= end + 16384  # what kernels ask for past the last weights


def test_the_model_computes_the_same_and_can_be_copied(model, monkeypatch):
    with torch.inference_mode():
        before = model(IDS).logits
        gathered(model, monkeypatch)
        assert torch.equal(model(IDS).logits, before)
        assert torch.equal(copy.deepcopy(model)(IDS).logits, before)
    assert set(model.state_dict()) == set(copy.deepcopy(model).state_dict())


def test_few_weights_stay_where_they_are(model):
    before = [layer.packed.data_ptr() for _, layer in packed_layers(model)]
    weight_room.gather(model)
    assert [layer.packed.data_ptr() for _, layer in packed_layers(model)] == before


def test_without_huge_pages_weights_are_gathered_all_the_same(model, monkeypatch):
    monkeypatch.delattr(weight_room.mmap, "MADV_HUGEPAGE", raising=False)
    assert len({x.untyped_storage().data_ptr() for x in gathered(model, monkeypatch)}) == 1
