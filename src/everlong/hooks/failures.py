"""What is said where a model itself fails while it is tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from transformers import PreTrainedModel

from everlong.errors import AttachError, EverlongError, one_line


@contextmanager
def model_failures_told(model: PreTrainedModel) -> Iterator[None]:
    """AttachError where the model itself fails while it is tried."""
    try:
        yield
    except EverlongError:
        raise
    except Exception as error:
        raise AttachError(
            f"{type(model).__name__}{_layer_of(error)}: tried on a few tokens with transformers' cache it fails "
            f"({type(error).__name__}: {one_line(error)}); use another model, or transformers without everlong"
        ) from error


def _layer_of(error: Exception) -> str:
    """Which layer an error was raised in: that of the last module on the way that knows its index."""
    owners = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
    found = [index for index in (getattr(owner, "layer_idx", None) for owner in owners) if isinstance(index, int)]
    return f" layer {found[-1]}" if found else ", before its first layer"
