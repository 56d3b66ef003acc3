"""The YAML file of --config: what it says becomes the defaults of a command's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from everlong.config import load_yaml
from everlong.errors import ConfigError, nearest

FIELDS = "everlong.method"
"""Where the context of a command keeps the fields of the method that the file names."""


def from_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make what the YAML file says the defaults of the command's options."""
    if path is not None:
        content = load_yaml(path)
        chosen = content.get("method")
        if isinstance(chosen, Mapping):
            ctx.meta[FIELDS] = dict(chosen)
            content["method"] = chosen.get("name")
        defaults(ctx, content, path)
    return path


def defaults(ctx: typer.Context, content: dict[str, Any], path: Path) -> None:
    """Make `content` of a YAML file the defaults; ConfigError for a key that is no option of this command."""
    command: Any = ctx.command
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in ("config", "help")]
    known = {str(p.opts[0]).lstrip("-").replace("-", "_"): p for p in options}
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"config {path}: {key!r} is no option of {ctx.command_path}; {nearest(name, known)}")
        if isinstance(value, Mapping) or value is None:
            raise ConfigError(f"config {path}: {key}={value}: expected a value; see `{ctx.command_path} --help`")
        many = isinstance(value, list) and not known[name].multiple
        values[known[name].name] = ",".join(map(str, value)) if many else value
    ctx.default_map = values
