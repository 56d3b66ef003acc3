"""Fewer records of a text: around the asked one, which stays at its depth."""

from __future__ import annotations

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.records import Records

TEN = tuple("abcdefghij")


def test_by_hand():
    assert Records(TEN, 0).trimmed(lines=4) == Records(tuple("abcd"), 0)
    assert Records(TEN, 9).trimmed(lines=4) == Records(tuple("ghij"), 3)
    assert Records(TEN, 3).trimmed(lines=4) == Records(tuple("cdef"), 1)
    assert Records(TEN, 3).trimmed(lines=None) == Records(TEN, 3)
    assert (Records(TEN, 3).example, Records(TEN, 8).example) == ("i", "d")


@pytest.mark.parametrize("keep", range(2, 11))
def test_the_asked_record_stays_at_its_depth(keep):
    for asked in range(10):
        kept = Records(TEN, asked).trimmed(keys=keep)
        assert len(kept.records) == keep
        assert kept.records[kept.asked] == TEN[asked]
        assert abs(kept.depth - asked / 9) <= 0.5 / (keep - 1) + 1e-9
        assert "".join(kept.records) in "".join(TEN)
        assert kept.example != TEN[asked]


@pytest.mark.parametrize("keep", [-1, 0, 1, 11])
def test_too_few_or_too_many_are_refused(keep):
    with pytest.raises(ConfigError, match=f"keys={keep}: a sample has 10; give a number from 2"):
        Records(TEN, 3).trimmed(keys=keep)
