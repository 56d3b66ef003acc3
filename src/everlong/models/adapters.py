"""Adapters (LoRA and others of PEFT): folders that have one, and what tells a model with one from the model without."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from everlong.errors import LoadError, one_line

CONFIG = "adapter_config.json"


def adapter_base(path: Path) -> str | None:
    """The model that the adapter in this folder was trained for, as its configuration names it; None for no adapter.

    LoadError for one that names none.
    """
    if not path.is_dir() or not (path / CONFIG).is_file() or (path / "config.json").is_file():
        return None
    try:
        found = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise LoadError(
            f"{path}: its {CONFIG} cannot be read ({one_line(error, 100)}); copy the adapter again"
        ) from error
    if not isinstance(found, str) or not found:
        raise LoadError(f"{path}: an adapter whose {CONFIG} does not say base_model_name_or_path; write it there")
    return found


def put_adapter(model: Any, path: Path) -> None:
    """Load the adapter in the folder onto its model, active.

    LoadError where PEFT is not installed, or the adapter does not suit the model.
    """
    if importlib.util.find_spec("peft") is None:
        raise LoadError(f"{path}: an adapter, which is loaded with PEFT; run `pip install peft`")
    try:
        model.load_adapter(str(path))
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise LoadError(
            f"{path}: this adapter cannot be put on its model ({reason}); give the model it is for"
        ) from error


def adapters(model: Any) -> list[str]:
    """Of each layer with adapters a line: which are active or merged, and how much they count. Nothing without PEFT."""
    known = sys.modules.get("peft.tuners.tuners_utils")
    if known is None:
        return []
    found = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, known.BaseTunerLayer))
    return [f"{name} {_state(layer)}" for name, layer in sorted(found, key=lambda pair: pair[0])]


def _state(layer: Any) -> str:
    active = [] if layer.disable_adapters else sorted(layer.active_adapters)
    scaling = {name: getattr(layer, "scaling", {}).get(name) for name in active}
    return json.dumps([active, sorted(layer.merged_adapters), scaling], sort_keys=True, default=str)
