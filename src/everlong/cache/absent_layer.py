"""Layers of a transformers cache that hold nothing: transformers' own class, or one as it is where that is older."""

from __future__ import annotations

from typing import Any

from transformers import cache_utils


class NothingCached:
    """The layer of a cache for a layer of the model that caches nothing, for transformers 5.20, which has none."""

    supports_early_init = False
    is_compileable = True
    is_croppable = True
    is_initialized = True
    keys = None
    values = None

    def reset(self) -> None:
        """Nothing to forget."""

    def crop(self, max_length: int) -> None:
        """Nothing to crop."""

    def get_seq_length(self) -> int:
        """No tokens."""
        return 0


AbsentLayer: Any = getattr(cache_utils, "DummyLayer", NothingCached)
