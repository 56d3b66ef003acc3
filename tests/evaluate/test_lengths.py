"""Lists of lengths, depths and names as they are given on the command line."""

from __future__ import annotations

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.lengths import among, at_least_one, depths, lengths
from everlong.evaluate.task import make_task


def test_lists_with_commas_and_units():
    task = make_task("passkey", {"lengths": "600, 4K,1M", "depths": ".1,1"})
    assert (task.lengths, task.depths) == ((600, 4096, 1 << 20), (0.1, 1.0))
    assert make_task("passkey", {"lengths": 600, "depths": [0.5]}).as_dict()["lengths"] == (600,)
    with pytest.raises(ConfigError, match="lengths=4Q: expected"):
        make_task("passkey", {"lengths": "4Q"})


def test_wrong_ones_are_named():
    with pytest.raises(ConfigError, match="lengths=0: expected numbers of tokens"):
        lengths((0,))
    with pytest.raises(ConfigError, match="lengths=: expected"):
        lengths(())
    with pytest.raises(ConfigError, match=r"depths=0.5,1.2: expected numbers from 0 \(start\) to 1"):
        depths((0.5, 1.2))
    with pytest.raises(ConfigError, match="samples=0: must be at least 1"):
        at_least_one(samples=0)


def test_names_that_do_not_exist_are_named_with_the_nearest():
    among(("noise", "books"), filler="books")
    among(("qa1", "qa2"), subsets=("qa2", "qa1"))
    with pytest.raises(ConfigError, match="filler=boks: does not exist; did you mean 'books'"):
        among(("noise", "books"), filler="boks")
    with pytest.raises(ConfigError, match="subsets=qa9: does not exist"):
        among(("qa1", "qa2"), subsets=("qa1", "qa9"))
    with pytest.raises(ConfigError, match="subsets=: does not exist; known: qa1, qa2"):
        among(("qa1", "qa2"), subsets=())
