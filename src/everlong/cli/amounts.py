"""Bytes, seconds and numbers of things as people say them."""

from __future__ import annotations

_STEP = 1024
_FINE = 20
"""Below so many of a unit a digit behind the point is said."""
_UNITS = ("KiB", "MiB", "GiB", "TiB")
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def size(count: int | float) -> str:
    """So many bytes, in the unit that leaves one to three digits before the point.

    >>> size(0), size(1536), size(87 * 2**20), size(12.6 * 2**30)
    ('0 bytes', '1.5 KiB', '87 MiB', '12.6 GiB')
    """
    if round(count) < _STEP:
        return f"{count:.0f} bytes"
    for unit in _UNITS:
        count = count / _STEP
        # What would be rounded up to 1,024 is said in the next unit.
        if round(count) < _STEP or unit == _UNITS[-1]:
            break
    return f"{count:.1f} {unit}" if round(count, 1) < _FINE else f"{count:,.0f} {unit}"


def duration(seconds: int | float) -> str:
    """So much time, in one unit or two.

    >>> duration(0.42), duration(9.96), duration(75), duration(2400), duration(3 * 3600 + 240), duration(2.5 * 86400)
    ('0.4 s', '10 s', '1 min 15 s', '40 min', '3 h 4 min', '2 d 12 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < 10 * _MINUTE_S:
        return _two(whole, _MINUTE_S, "min", 1, "s")
    if whole < _HOUR_S - _MINUTE_S // 2:
        return f"{round(whole / _MINUTE_S)} min"
    if whole < _DAY_S - _MINUTE_S // 2:
        return _two(whole, _HOUR_S, "h", _MINUTE_S, "min")
    return _two(whole, _DAY_S, "d", _HOUR_S, "h")


def several(count: int, noun: str) -> str:
    """A number with its noun.

    >>> several(1, "passage"), several(3912, "passage")
    ('1 passage', '3,912 passages')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _two(whole: int, large_s: int, large: str, small_s: int, small: str) -> str:
    """A time in two units; the smaller one is left out where there is none of it."""
    parts, rest = divmod(round(whole / small_s), large_s // small_s)
    return f"{parts} {large} {rest} {small}" if rest else f"{parts} {large}"
