"""How many bytes what is stored may take in host memory and on the disk, and what happens when they are full."""

from __future__ import annotations

import re
from dataclasses import dataclass

from everlong.errors import ConfigError

WHEN_FULL = ("refuse", "oldest", "least-used", "ids")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Budget:
    """Hard limits in bytes, None for none; `when_full` is what gives way: the input (refuse), or stored blocks.

    Of blocks that give way nothing is left (oldest, least-used), or (ids) their ids and recall rows, the oldest first.
    """

    host: int | None = None
    disk: int | None = None
    when_full: str = "refuse"

    def __post_init__(self) -> None:
        if self.when_full not in WHEN_FULL:
            raise ConfigError(f"when_full={self.when_full!r}: expected one of {', '.join(WHEN_FULL)}")
        if not self and self.when_full != "refuse":
            raise ConfigError(
                f"when_full={self.when_full!r}: has no effect without a budget; give host_budget or disk_budget too"
            )

    def __bool__(self) -> bool:
        return self.host is not None or self.disk is not None

    @classmethod
    def given(cls, host: int | str | None, disk: int | str | None, when_full: str) -> Budget:
        """The budget in what a user wrote: bytes, or texts as `size` takes them."""
        return cls(_checked("host_budget", host), _checked("disk_budget", disk), when_full)

    def as_dict(self) -> dict[str, int]:
        """The limits that are set, by tier."""
        return {tier: n for tier, n in (("host", self.host), ("disk", self.disk)) if n is not None}


def size(text: str) -> int:
    """The bytes that a text such as 512M, 2G, 1.5GiB or 1000000 means (K, M, G and T count in powers of 1024)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:I?B)?", text.strip().upper())
    if found is None:
        raise ConfigError(f"{text!r}: no number of bytes; write for example 512M, 2G or 1000000")
    return int(float(found[1]) * UNITS[found[2]])


def _checked(name: str, value: int | str | None) -> int | None:
    if isinstance(value, str):
        try:
            value = size(value)
        except ConfigError as error:
            raise ConfigError(f"{name}={error}") from None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"{name}={value!r}: must be a whole number of at least 1 (bytes), or a text such as 512M")
    return value
