"""The codecs and the stores by name, for settings: knowing the names imports no torch."""

from __future__ import annotations

from typing import Any

from everlong.config import Registry

CODECS: Registry[Any] = Registry(
    "codec",
    homes={
        "native": "everlong.storage.codecs.numbers",
        "bfloat16": "everlong.storage.codecs.numbers",
        "int8": "everlong.storage.codecs.integers",
        "int4": "everlong.storage.codecs.integers",
    },
)
"""The subclasses of `storage.codecs.base.Codec`: how a block becomes a record."""
STORES: Registry[Any] = Registry("store", homes={"host": "everlong.storage.base", "disk": "everlong.storage.disk"})
"""The subclasses of `storage.base.Store`: where records lie."""
