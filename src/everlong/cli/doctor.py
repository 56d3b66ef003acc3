"""`everlong doctor`: what there is, what works with a model, and what it will cost."""

from __future__ import annotations

import dataclasses
import shlex
import textwrap
from typing import Any

import typer

from everlong.cli import next_command
from everlong.cli.console import Console
from everlong.cli.families import EXACT, REFUSED
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.doctor import DoctorOptions
from everlong.config import parse_options
from everlong.errors import AttachError, CapabilityError, ConfigError, LoadError, nearest
from everlong.hooks.attach import attach
from everlong.hooks.packed_check import unpackable
from everlong.hooks.program.switch import why_not
from everlong.machine import machine, versions
from everlong.methods import Method, make_method, method_class, method_names
from everlong.methods.dense import Dense
from everlong.models.internals import decoder_of
from everlong.models.load import Loaded
from everlong.models.packed_linear import parameters_of, weight_bytes
from everlong.models.retrieval_heads import BEST, find
from everlong.ops.native import description


def doctor(ctx: typer.Context, given: DoctorOptions) -> None:
    """Look at everything, and show it."""
    console = Console.of(given.output)
    methods = _methods(parse_options(given.option or []))
    loaded = load_model(given.model, given.hardware, console)
    found = {
        "machine": machine() | {"kernels": description()},
        "versions": versions(),
        "model": _model_facts(loaded),
        "packing": _packing(loaded),
        "program": _program(loaded),
        "methods": [_try(loaded, method, given.chunk) for method in methods],
        "families": {"exact": EXACT, "refused": REFUSED},
    }
    if given.output.json:
        console.result(found)
    else:
        _tell(found)
        console.note(f"Next: {shlex.join(['everlong', 'bench', *next_command.same_model(ctx)])}")


def _methods(fields: dict[str, Any]) -> list[Method]:
    """Every method with those of `fields` that it has; ConfigError for one that none has."""
    known = {name: {f.name for f in dataclasses.fields(method_class(name))} for name in method_names()}
    every = set().union(*known.values())
    for field, value in fields.items():
        if field not in every:
            raise ConfigError(f"{field}={value}: no method has this option; {nearest(field, every)}")
    return [make_method(name, {f: v for f, v in fields.items() if f in has}) for name, has in known.items()]


def _model_facts(loaded: Loaded) -> dict[str, Any]:
    """What the model's configuration says, and how its weights are held."""
    config = loaded.model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None)
    rope = getattr(config, "rope_parameters", None) or {}
    return {
        "name": loaded.name,
        "architecture": type(loaded.model).__name__,
        "family": config.model_type,
        "parameters": parameters_of(loaded.model),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "weights": loaded.weights,
        "weight_bytes": weight_bytes(loaded.model),
        "device": str(loaded.model.device),
        "layers": config.num_hidden_layers,
        "query_heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", heads),
        "trained_length": getattr(config, "max_position_embeddings", None),
        "rope_type": rope.get("rope_type"),
        "tokenizer": None if loaded.tokenizer is None else type(loaded.tokenizer).__name__,
        "chat_template": bool(getattr(loaded.tokenizer, "chat_template", None)),
        "retrieval_heads": _heads_line(loaded),
    }


def _heads_line(loaded: Loaded) -> str:
    """Whether the model's retrieval heads are known, and what their vote is worth."""
    try:
        heads = find(loaded.model)
    except LoadError as error:
        return str(error)
    if heads is None:
        return f"not calibrated: `everlong calibrate --model {shlex.quote(loaded.name)}`"
    worth = "" if heads.recall is None else f", recall {heads.recall:.2f} at {heads.tokens:,} tokens"
    return f"calibrated, {min(BEST, len(heads.heads))} heads{worth}{' (shipped)' if heads.shipped else ''}"


def _packing(loaded: Loaded) -> dict[str, Any]:
    """Whether one forward reads many streams of the model, and why it does not."""
    try:
        with attach(loaded.model, Dense()):
            reason = unpackable(loaded.model)
    except AttachError as error:
        reason = str(error)
    return {"packs": reason is None, "reason": reason}


def _program(loaded: Loaded) -> dict[str, Any]:
    """Whether one token is run from a recorded list of operations, and why it is not."""
    try:
        with attach(loaded.model, Dense()):
            decoder = decoder_of(loaded.model)
            reason = why_not(decoder, unpackable(loaded.model))
    except AttachError as error:
        reason = str(error)
    return {"recorded": reason is None, "reason": reason}


def _try(loaded: Loaded, method: Method, chunk: int) -> dict[str, Any]:
    """Whether the method works on the model, and the bytes that its cache takes (None: they grow with the stream)."""
    row: dict[str, Any] = {
        "method": str(method),
        "works": False,
        "how": "",
        "bytes_per_token": None,
        "cache_bytes": None,
    }
    try:
        handle = attach(loaded.model, method)
    except AttachError as error:
        return row | {"how": str(error)}
    with handle:
        row |= {"works": True, "how": handle.route, "bytes_per_token": handle.plan.bytes_per_token()}
        if not method.streams:
            return row | {"how": "scores only, by running the model anew for each token", "cache_bytes": 0}
        try:
            row["cache_bytes"] = handle.new_cache(min(chunk, handle.plan.frame_length)).stream.planned_bytes()
        except CapabilityError as error:
            return row | {"works": False, "how": str(error)}
        return row


def _tell(found: dict[str, Any]) -> None:
    """The findings as lines."""
    for title in ("machine", "versions", "model"):
        print(f"{title}")
        for name, value in found[title].items():
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            print(f"  {name.replace('_', ' '):<16}{shown}")
    reason = found["packing"]["reason"]
    print(f"  {'many streams':<16}{'packed into one forward' if reason is None else f'one by one: {reason}'}")
    reason = found["program"]["reason"]
    print(f"  {'one token':<16}{'from a recorded list, in C' if reason is None else f'by its modules: {reason}'}")
    print("methods")
    for row in found["methods"]:
        works = "works" if row["works"] else "refused"
        cost = _cost(row) if row["works"] else ""
        print(f"  {row['method']:<28}{works:<9}{cost}{row['how']}")
    print("families")
    print(textwrap.fill(", ".join(found["families"]["exact"]), 110, initial_indent="  ", subsequent_indent="  "))
    print(f"  refused, their positions are learned: {', '.join(found['families']['refused'])}")
    print("  any other model is probed and checked when it is attached")


def _cost(row: dict[str, Any]) -> str:
    """What a method takes, in words."""
    if row["cache_bytes"] is None:
        return f"{row['bytes_per_token']:,} bytes for every token; "
    return f"{row['cache_bytes'] / 2**20:.1f} MiB in all; " if row["cache_bytes"] else ""
