"""One thread at a time in a model: a lock for each, which lasts as long as the model."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from torch import nn

# Not on the model: what is attached must leave nothing there, and a lock cannot be copied with it.
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def turn(decoder: nn.Module) -> threading.RLock:
    """The lock of a model's decoder: held while it is attached or detached, and for each of its forwards."""
    # One step of a dict, which no other thread sees half done: a lock around it could be left behind by an interrupt.
    return _LOCKS.setdefault(decoder, threading.RLock())
