"""Which families each push tests in full: one for each mechanism that a family can differ by; the rest is slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.families.configs import Family

PUSH = {
    "llama": "the plain rotary layer",
    "phi3 longrope": "angles that change with the length",
    "gemma3n": "layers that share keys and values, scaled embeddings, native windows",
    "gemma4": "layers that share keys and values, proportional rotation",
    "gpt_oss": "learned sinks, native windows, yarn, experts",
    "deepseek_v3": "latent keys and values (MLA), experts",
    "llama4": "native chunks, layers without rotation, queries scaled by position",
    "mpt": "ALiBi, names of its own",
    "falcon": "fused projections, one key head for many, names of its own",
    "gptj": "interleaved rotation of a part, attention of its own",
}
REST = pytest.mark.slow(reason="`make test` runs the ten families of tests/families/chosen.py")


def each(families: Iterable[Family]) -> list[Any]:
    """The families as parameters, those beyond `PUSH` marked slow."""
    return [pytest.param(f, id=str(f), marks=_marks(f)) for f in families]


def each_layer(families: Iterable[Family]) -> list[Any]:
    """Every kind of layer of the families as parameters, those beyond `PUSH` marked slow."""
    return [pytest.param(f, kind, id=f"{f}-{kind}", marks=_marks(f)) for f in families for kind in f.kinds]


def _marks(family: Family) -> Any:
    return () if family.name in PUSH or family.refused else REST
