"""The optional extension in C, `everlong._native`: whether it is there, and with which instructions.

It is built when everlong is installed where a C compiler is; without it everything works in torch alone.
EVERLONG_NATIVE=0 leaves it out, EVERLONG_NATIVE=avx2 (scalar, avx512, vnni) takes a set of instructions that is not the
best one of the processor.
"""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from typing import Any

from everlong.errors import ConfigError

logger = logging.getLogger(__name__)

SWITCH = "EVERLONG_NATIVE"
INTERFACE = 7
"""What the functions of the extension take: that of native/module.c, else it was built from other sources."""
_OFF = ("0", "off", "no", "false")
_BEST = ("", "1", "on", "yes", "true")


@cache
def extension() -> Any | None:
    """The module `everlong._native`, or None where it was not built or is turned off.

    ConfigError for a set of instructions that this processor does not have.
    """
    wanted = os.environ.get(SWITCH, "").lower()
    if wanted in _OFF:
        return None
    try:
        found = importlib.import_module("everlong._native")
    except ImportError:
        return None
    if found.INTERFACE != INTERFACE:
        logger.warning("the C extension was built from other sources and is left out: install everlong again")
        return None
    if wanted not in _BEST:
        if wanted not in found.levels():
            raise ConfigError(
                f"{SWITCH}={wanted}: expected 0, 1 or one of {', '.join(found.levels())} (this processor's)"
            )
        found.set_level(wanted)
    return found


def description() -> str:
    """What is in use, in words."""
    found = extension()
    if found is not None:
        return f"C, {found.level()}"
    off = os.environ.get(SWITCH, "").lower() in _OFF
    return (
        "torch (C extension turned off)" if off else "torch (no C extension: install a compiler, then everlong again)"
    )
