"""What the fields of several methods have in common: their checks, and the words for them."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from everlong.errors import ConfigError

SINKS_HELP = "tokens kept from the start of the stream"
WINDOW_HELP = "tokens kept exactly, the newest included"
MOST = 2**31 - 1
"""The largest number of tokens, blocks and the like that a field may be."""


def check_choices(options: object) -> None:
    """ConfigError unless every field of a dataclass that is a Literal holds one of its values."""
    for name, hint in get_type_hints(type(options)).items():
        if get_origin(hint) is Literal and getattr(options, name) not in get_args(hint):
            raise ConfigError(f"{name}={getattr(options, name)!r}: expected one of {', '.join(get_args(hint))}")


def at_least(least: int, *, why: str, **field: Any) -> None:
    """ConfigError unless the one named field is a whole number of at least `least` that fits 32 bits."""
    ((name, got),) = field.items()
    if not isinstance(got, int) or isinstance(got, bool):
        raise ConfigError(f"{name}={got!r}: expected a whole number of at least {least} ({why})")
    if got < least:
        raise ConfigError(f"{name}={got}: must be at least {least} ({why})")
    if got > MOST:
        raise ConfigError(f"{name}={got}: must be at most {MOST} ({why})")


def check_memory(memory: str, segment: int) -> None:
    """ConfigError unless a memory's field `memory` is on, off, zeroed, or reset:N with whole segments in N."""
    if memory in ("on", "off", "zeroed"):
        return
    found = re.fullmatch(r"reset:([1-9]\d*)", memory)
    if found is None:
        raise ConfigError(f"memory={memory!r}: expected on, off, zeroed or reset:N, such as reset:{8 * segment}")
    if int(found[1]) % segment:
        whole = max(1, round(int(found[1]) / segment)) * segment
        raise ConfigError(f"memory={memory}: must be a multiple of segment={segment}; use reset:{whole}, for example")


def reset_tokens(memory: str) -> int | None:
    """N of a field `memory` that is reset:N; None for any other."""
    return int(memory.removeprefix("reset:")) if memory.startswith("reset:") else None
