"""The forms in which a model's weights may be held, by name."""

from __future__ import annotations

from everlong.errors import ConfigError, nearest

FULL = "full"
WEIGHTS = (FULL, "int8", "int4")


def check_weights(weights: str) -> str:
    """`weights`; ConfigError where it is not the name of a form."""
    if weights not in WEIGHTS:
        known = nearest(str(weights), WEIGHTS)
        raise ConfigError(f"weights={weights}: expected full (as dtype says), int8 or int4; {known}")
    return weights
