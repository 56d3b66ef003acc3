"""Where everlong keeps what it makes."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The default folder: $EVERLONG_HOME, or ~/.everlong."""
    return Path(os.environ.get("EVERLONG_HOME") or Path.home() / ".everlong")
