"""Lists of lengths (4096, 32K, 1M), depths and names as command line and recipes give them, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from everlong.errors import ConfigError, nearest

_UNITS = {"K": 1 << 10, "M": 1 << 20}


def _words(value: Any) -> Any:
    """The members of a list with commas; a single number is a list of one."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def _tokens(value: Any) -> Any:
    """32K and 1M as numbers, in a list."""
    found = _words(value)
    return [_number(word) for word in found] if isinstance(found, list | tuple) else found


def _number(word: Any) -> Any:
    if isinstance(word, str) and word[-1:].upper() in _UNITS and word[:-1].isdecimal():
        return int(word[:-1]) * _UNITS[word[-1].upper()]
    return word


Lengths = Annotated[tuple[int, ...], BeforeValidator(_tokens)]
"""Tokens: 4096,32K,1M."""
Depths = Annotated[tuple[float, ...], BeforeValidator(_words)]
"""Places in a text: .1,.5,.9."""
Names = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""Names with commas."""
Ways = Annotated[tuple[int | Literal["auto"], ...], BeforeValidator(_words)]
"""How many passages are read again for a question: 0,2,auto."""


def tokens_of(word: str, option: str) -> int:
    """A number of tokens, as in 128, 8K or 1M; ConfigError, naming the option, for anything else.

    >>> tokens_of("8K", "context")
    8192
    """
    found = _number(word)
    if isinstance(found, str):
        found = int(found) if found.isdecimal() else 0
    if found < 1:
        raise ConfigError(f"{option}={word}: expected a whole number of at least 1 (tokens), as in 128, 8K or 1M")
    return found


def lengths(given: tuple[int, ...]) -> None:
    """ConfigError unless there is at least one length, and each has room for a text."""
    if not given or min(given) < 1:
        raise ConfigError(f"lengths={','.join(map(str, given))}: expected numbers of tokens, for example 4096,32K")


def depths(given: tuple[float, ...]) -> None:
    """ConfigError unless there is at least one depth, and each lies in the text."""
    if not given or not all(0 <= depth <= 1 for depth in given):
        raise ConfigError(f"depths={','.join(map(str, given))}: expected numbers from 0 (start) to 1 (end)")


def at_least_one(**number: int) -> None:
    """ConfigError unless the one named number is at least 1."""
    ((name, got),) = number.items()
    if got < 1:
        raise ConfigError(f"{name}={got}: must be at least 1")


def among(known: Sequence[str], **given: str | tuple[str, ...]) -> None:
    """ConfigError unless the one named option has only names that are known, and at least one."""
    ((option, got),) = given.items()
    names = (got,) if isinstance(got, str) else got
    for name in names or ("",):
        if name not in known:
            raise ConfigError(f"{option}={name}: does not exist; {nearest(name, known)}")


def ways(**given: tuple[int | str, ...]) -> None:
    """ConfigError unless the one named option has at least one number of passages, or auto."""
    ((option, got),) = given.items()
    if not got or any(way != "auto" and (isinstance(way, str) or way < 0) for way in got):
        raise ConfigError(f"{option}={','.join(map(str, got))}: expected numbers from 0 on, or auto, for example 0,2")
