"""What a shell may complete: names of sessions, methods and models, found without importing torch."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from everlong.environment import home
from everlong.errors import EverlongError

METHODS = ("blocks", "delta", "dense", "infini", "infinity_former", "recompute", "sinks", "transformer_xl", "window")
DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("full", "int8", "int4", "file")
DEVICES = ("auto", "cpu", "cuda")
WHEN_FULL = ("refuse", "oldest", "least-used", "ids")
DEFAULT_MODEL = "smollm2"
Completion = Callable[[str], list[str]]


def one_of(words: Iterable[str]) -> Completion:
    """Those of the words that begin with what is typed."""
    known = tuple(words)
    return lambda incomplete: _beginning(incomplete, known)


def sessions(ctx: Any, incomplete: str) -> list[str]:
    """The sessions in the store that was given, or in the default one."""
    from everlong.library.database import Database  # SQLite, which help has no use for

    given = ctx.params.get("store")
    path = (home() if given is None else Path(given).expanduser()) / "everlong.db"
    with contextlib.suppress(EverlongError, OSError):
        if path.is_file():
            with Database(path).transaction() as db:
                return _beginning(incomplete, [row[0] for row in db.execute("SELECT name FROM sessions ORDER BY name")])
    return []


def models(incomplete: str) -> list[str]:
    """The models that have short names: the default one, those that come along, those of the hub that are here.

    Where none begins so, the shell completes paths.
    """
    from huggingface_hub import constants  # takes longer than all that help needs

    shipped = Path(__file__).parents[1] / "shipped"
    own = [f"everlong/{path.parent.name}" for path in sorted(shipped.glob("*/config.json"))]
    cached = sorted(path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*"))
    return _beginning(incomplete, [DEFAULT_MODEL, *own, *(name[8:].replace("--", "/") for name in cached)])


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    """The words that begin so, as they are typed: one that a shell would take apart in quotes."""
    return [shlex.quote(word) for word in words if word.startswith(incomplete)]
