"""Weights that took long to round, kept: a model that is loaded with the same ones again gets them from the cache.

GGUF files have a place of their own (packed_folder.py); this is for folders and the hub.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from everlong.environment import cache
from everlong.machine import versions
from everlong.models import gguf
from everlong.models.fingerprint import configuration_digest, tokenizer_digest, weights_digest
from everlong.models.packed_linear import PackedLinear, pack_model, packed_layers

logger = logging.getLogger(__name__)

FEWEST_WEIGHTS = 1 << 20
_FORMAT = 1
_ROUNDED = "int4"


def pack_kept(model: Any, weights: str, tokenizer: Any) -> None:
    """`pack_model`; what rounds for a text (`int4`) is kept, and taken from where it was kept."""
    if weights != _ROUNDED or tokenizer is None or sum(p.numel() for p in model.parameters()) < FEWEST_WEIGHTS:
        pack_model(model, weights, tokenizer)
        return
    path = cache() / "packed" / f"{type(model).__name__}-{_key(model, tokenizer)}"
    if _take(model, path):
        return
    pack_model(model, weights, tokenizer)
    try:
        _put(model, path)
    except OSError as error:
        logger.warning("the packed weights cannot be kept in %s (%s): they are packed at each load", path.parent, error)


def _key(model: Any, tokenizer: Any) -> str:
    """A digest of all that the packed weights follow from."""
    parts = [_FORMAT, versions(), configuration_digest(model), weights_digest(model), tokenizer_digest(tokenizer)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _take(model: Any, path: Path) -> bool:
    """Put the kept layers in their places; False, with nothing changed, where none are kept or they are damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        if (path / "digest").read_text(encoding="ascii") != gguf.fingerprint(path / "weights"):
            return False
        with safe_open(path / "weights", "pt") as file:
            forms = json.loads(file.metadata()["forms"])
            layers = {name: _layer(model, name, form, file) for name, form in forms.items()}
    except (OSError, SafetensorError, LookupError, ValueError, AttributeError) as error:
        logger.debug("%s: %s", path, error)
        return False
    for name, layer in layers.items():
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, layer)
    return True


def _layer(model: Any, name: str, form: Any, file: Any) -> PackedLinear:
    module: nn.Linear = model.get_submodule(name)
    return PackedLinear.of(module, form, file.get_tensor(name).clone())


def _put(model: Any, path: Path) -> None:
    """Keep the packed layers; OSError where there is no room."""
    from safetensors.torch import save_file

    layers = dict(packed_layers(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as partial:
        folder = Path(partial) / "new"
        folder.mkdir()
        forms = json.dumps({name: layer.form for name, layer in layers.items()})
        save_file({name: layer.packed for name, layer in layers.items()}, folder / "weights", {"forms": forms})
        (folder / "digest").write_text(gguf.fingerprint(folder / "weights"), encoding="ascii")
        if not path.exists():
            folder.rename(path)
