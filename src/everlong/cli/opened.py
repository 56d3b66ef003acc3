"""A file whose text is being taken out, and the packages that this needs."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from everlong.errors import CapabilityError, InputError
from everlong.text.places import Place

_NOISY = ("pypdf", "trafilatura", "htmldate", "justext", "courlan")


class Opened(NamedTuple):
    """A file that is being read: where it is, its name in messages, its places, and who is told what is lost."""

    path: Path
    name: str
    encoding: str | None
    places: list[Place]
    say: Callable[[str], None]

    def refuse(self, words: str) -> InputError:
        """What to raise where the file cannot be read."""
        return InputError(f"{self.name}: {words}")


def needed(file: Opened, package: str, module: str, *names: str) -> list[Any]:
    """Functions of a module of this package that needs another package; CapabilityError where that is missing."""
    try:
        importlib.import_module(package)
        quiet()
        return [getattr(importlib.import_module(f"everlong.cli.{module}"), name) for name in names]
    except ImportError:
        raise missing(file, package) from None


def quiet() -> None:
    """Keep what the libraries say of a file to themselves; what is lost is said by `Opened.say`."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def missing(file: Opened, package: str) -> CapabilityError:
    """What to raise where a package is not installed."""
    return CapabilityError(f"{file.name}: needs {package}; pip install 'everlong[documents]', or give the text as .txt")
