"""What a session accepts, and how it refuses the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everlong.errors import CapabilityError, InputError
from everlong.text.inputs import as_ids, chunks, id_pieces, is_text


def test_text_is_told_from_ids():
    for text in ("", "a", ["a", "b"], ("a",), iter([]), (word for word in "ab")):
        assert is_text(text)
    for ids in ([], [1], (1,), torch.tensor([1]), np.array([1]), range(3), b"ab"):
        assert not is_text(ids)


@pytest.mark.parametrize("ids", [[1, 2], (1, 2), range(1, 3), np.array([1, 2], dtype=np.uint16), torch.tensor([1, 2])])
def test_ids_become_one_kind(ids):
    found = as_ids(ids, 10)
    assert found.dtype == torch.int64
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1, 10], r"id 10: outside the model's vocabulary \(0..9\)"),
        ([1, -3], "id -3: outside"),
        ([1.5], "ids of type torch.float64: whole numbers expected"),
        ([True, False], "ids of type torch.bool"),
        ([[1, 2]], r"ids of shape \[1, 2\]: expected one dimension"),
        (torch.tensor(3), r"ids of shape \[\]: expected one dimension"),
        ([1, "a"], "list: expected text, ids or an iterator of text"),
        ([1, None], "list: expected text, ids or an iterator of text"),
        ([[1], [2, 3]], "list: expected text, ids or an iterator of text"),
        (b"ab", "bytes: expected text"),
        (7, "ids of shape"),
        ([2**70], "list: expected text, ids"),
    ],
)
def test_what_is_not_ids_is_refused_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as caught:
        as_ids(wrong, 10)
    assert "\n" not in str(caught.value)


def test_text_needs_a_tokenizer():
    with pytest.raises(CapabilityError, match="text: this session has no tokenizer"):
        list(id_pieces("a", None, 10, special=False))


@pytest.mark.parametrize("tokens", [1, 3, 7, 100])
def test_chunks_have_one_length_but_for_the_last(tokens):
    found = list(chunks([torch.arange(a, b) for a, b in ((0, 5), (5, 6), (6, 20), (20, 21))], tokens))
    assert torch.cat(found).tolist() == list(range(21))
    assert all(len(part) == tokens for part in found[:-1])
    assert 1 <= len(found[-1]) <= tokens
