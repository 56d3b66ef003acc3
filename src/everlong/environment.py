"""Where everlong keeps what it makes."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The default folder: $EVERLONG_HOME, or ~/.everlong."""
    return Path(os.environ.get("EVERLONG_HOME") or Path.home() / ".everlong")


def cache() -> Path:
    """Where what can be made again is kept, whatever the default folder is: $EVERLONG_CACHE, else ~/.cache/everlong.

    $XDG_CACHE_HOME stands for ~/.cache.
    """
    given = os.environ.get("EVERLONG_CACHE")
    around = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(around) if around else Path.home() / ".cache") / "everlong"
