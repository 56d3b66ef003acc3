"""collate: rows of unequal length as one batch, padded on the right."""

from __future__ import annotations

import numpy as np
import torch

from everlong.ops.segments import NONE
from everlong.train.data import Example, collate


def sample(tokens: int) -> Example:
    weights = np.arange(tokens, dtype=np.float32) + 1
    return Example(np.arange(tokens) + 5, weights, weights * 2, np.arange(tokens) // 2, ((0, 1),))


def test_a_batch_by_hand():
    batch = collate([sample(1), sample(3)])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "ids": [[5, 0, 0], [5, 6, 7]],
        "loss_weight": [[1, 0, 0], [1, 2, 3]],
        "write_weight": [[2, 0, 0], [2, 4, 6]],
        "document": [[0, NONE, NONE], [0, 0, 1]],
    }
    assert NONE == -1
    assert [batch[n].dtype for n in ("ids", "document")] == [torch.int64] * 2
    assert [batch[n].dtype for n in ("loss_weight", "write_weight")] == [torch.float32] * 2


def test_rows_of_one_length_are_not_padded():
    batch = collate([sample(63)] * 4)
    assert batch["ids"].shape == (4, 63)
    assert (batch["document"] >= 0).all()
