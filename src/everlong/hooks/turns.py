"""One thread at a time in a model: a lock for each, which lasts as long as the model."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from torch import nn

# Not on the model: what is attached must leave nothing there, and a lock cannot be copied with it.
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_NEW = threading.Lock()


def turn(decoder: nn.Module) -> threading.RLock:
    """The lock of a model's decoder: held while it is attached or detached, and for each of its forwards."""
    with _NEW:
        return _LOCKS.setdefault(decoder, threading.RLock())
