"""The one exception tree of everlong.

    EverlongError
    ├── ConfigError            a setting, option, method or field that is wrong        (also ValueError)
    ├── InputError             a file or a text that cannot be read as asked           (also ValueError)
    ├── CapabilityError        a method or a cache that cannot do what was asked
    │   ├── BudgetError        what is to be stored does not fit the budget, and nothing may give way
    │   └── TooLongError       more tokens than a model with plain attention was trained for
    ├── ModelError
    │   ├── LoadError          no such model, or files that transformers cannot read
    │   └── AttachError        a model that cannot be attached
    │       ├── LearnedPositionsError   positions are learned vectors, not rotations or biases
    │       ├── PrecisionError          rotary frequencies were cast to a half type
    │       ├── RotationError           no hypothesis explains how the model rotates
    │       ├── UnsupportedLayerError   a layer that is not softmax attention over cached keys
    │       └── SelfCheckError          attached, but the model did not behave as it must
    └── SessionError
        ├── SaveError          a session could not be written (nothing half-written is left)
        ├── DamagedError       a saved session whose bytes are not the ones that were written
        └── ForeignError       a saved session of another model, tokenizer, method or version

Every message says what, got, expected and the next step, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EverlongError(Exception):
    """Base of everything that everlong raises on purpose."""


class ConfigError(EverlongError, ValueError):
    """A setting, option, method or field that is wrong."""


class InputError(EverlongError, ValueError):
    """A file or a text that cannot be read as asked."""


class CapabilityError(EverlongError):
    """A method or a cache that cannot do what was asked."""


class BudgetError(CapabilityError):
    """What is to be stored does not fit the budget, and nothing may give way."""


class TooLongError(CapabilityError):
    """More tokens than a model with plain attention was trained for."""


class ModelError(EverlongError):
    """A model that cannot be used."""


class LoadError(ModelError):
    """No such model, or files that transformers cannot read."""


class AttachError(ModelError):
    """A model that cannot be attached."""


class LearnedPositionsError(AttachError):
    """Positions are learned vectors, not rotations or biases."""


class PrecisionError(AttachError):
    """Rotary frequencies were cast to a half type."""


class RotationError(AttachError):
    """No hypothesis explains how the model rotates."""


class UnsupportedLayerError(AttachError):
    """A layer that is not softmax attention over cached keys."""


class SelfCheckError(AttachError):
    """The attached model did not behave as it must."""


class SessionError(EverlongError):
    """A session that cannot be saved or restored."""


class SaveError(SessionError):
    """A session could not be written; nothing half-written is left."""


class DamagedError(SessionError):
    """A saved session whose bytes are not the ones that were written."""


class ForeignError(SessionError):
    """A saved session of another model, tokenizer, method or version."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence naming the nearest known names, for messages about a name that does not exist."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def one_line(error: object, limit: int = 200) -> str:
    """The text of an error in one line of at most `limit` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
