"""Sizes as people write them, and budgets that make no sense."""

from __future__ import annotations

import pytest

from everlong.errors import ConfigError
from everlong.storage.budget import Budget, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 2**29), ("2G", 2**31), ("1.5GiB", 3 * 2**29), ("64kb", 2**16), (" 1000 ", 1000), ("1T", 2**40)],
)
def test_sizes(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1", "1,000", "12 parsecs", "1e6", "²"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match=r"disk_budget=.*no number of bytes; write for example 512M"):
        Budget.given(None, text, "refuse")


def test_budgets_are_checked():
    assert Budget.given("1K", None, "oldest") == Budget(1024, None, "oldest")
    assert Budget.given(None, 5, "refuse").as_dict() == {"disk": 5}
    for host in (0, -1, True, "0"):
        with pytest.raises(ConfigError, match=r"host_budget=.*at least 1"):
            Budget.given(host, None, "refuse")
    with pytest.raises(ConfigError, match="when_full='newest': expected one of refuse, oldest, least-used"):
        Budget.given(1, None, "newest")
    with pytest.raises(ConfigError, match="has no effect without a budget"):
        Budget.given(None, None, "oldest")
