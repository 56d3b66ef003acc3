"""The ring of recent ids."""

from __future__ import annotations

import pytest
import torch

from everlong.text.inputs import TokenHistory


@pytest.mark.parametrize("pieces", [[1] * 25, [3, 8, 1, 13], [25], [5, 20]])
def test_the_last_ids_are_kept_in_order(pieces):
    ring, stream = TokenHistory(7), torch.arange(100, 125)
    for part in stream.split(pieces):
        ring.add(part)
        held = stream[: ring.seen][-7:]
        assert ring.ids().tolist() == held.tolist()
        assert ring.ids(3).tolist() == held[-3:].tolist()
    assert ring.seen == 25


def test_a_copy_and_a_restored_ring_go_their_own_way():
    ring = TokenHistory(5)
    ring.add(torch.arange(8))
    copy, restored = ring.copy(), TokenHistory.restored(5, ring.ids(), ring.seen)
    ring.add(torch.tensor([50, 51]))
    for other in (copy, restored):
        assert other.ids().tolist() == [3, 4, 5, 6, 7]
        other.add(torch.tensor([60]))
        assert other.ids().tolist() == [4, 5, 6, 7, 60]
        assert other.seen == 9
