"""One process at a time: advisory locks on open files, which end with the process that holds them."""

from __future__ import annotations

import fcntl

from everlong.errors import EverlongError


def lock(descriptor: int, taken: EverlongError) -> None:
    """Hold an open file or folder until it is closed; raise `taken` if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise taken from error
