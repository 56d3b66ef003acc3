"""The forms in which a model's weights may be held, by name."""

from __future__ import annotations

from everlong.errors import ConfigError, nearest

FULL = "full"
FILE = "file"
WEIGHTS = (FULL, "int8", "int4", FILE)


def check_weights(weights: str) -> str:
    """`weights`; ConfigError where it is not the name of a form."""
    if weights not in WEIGHTS:
        known = nearest(str(weights), WEIGHTS)
        raise ConfigError(
            f"weights={weights}: expected full (as dtype says), int8, int4, or file (a GGUF file's own); {known}"
        )
    return weights
