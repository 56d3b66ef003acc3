"""What was found out about a model and kept, so that attaching it is fast in the next process: how it rotates, that it
passed the self-check, and the list that one token is run from.

It lies in everlong's cache under a fingerprint of all that it follows from: samples of the weights, configuration,
classes and their settings, versions, the sources of everlong and of the model's class, the kernels. Where one of them
has changed, or the file is damaged, the model is probed and checked anew. Small models are: it takes them little.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from everlong.environment import cache
from everlong.hooks.program.portable import NotPortable, as_plain, from_plain
from everlong.hooks.program.run import Program
from everlong.hooks.program.switch import Watch, switch_of
from everlong.hooks.routes import AttentionHook
from everlong.machine import versions
from everlong.models.fingerprint import configuration_digest, sample, weights_digest
from everlong.models.internals import decoder_of
from everlong.models.layout import LayerPlan, ModelLayout, Pattern, StatePlan, Temperature
from everlong.models.sharding import is_sharded
from everlong.ops.native import description, extension
from everlong.ops.rotary import Rotation

logger = logging.getLogger(__name__)

FEWEST_WEIGHTS = 1 << 20
_DECIDING = ("hooks", "cache", "ops", "models")
"""The folders of everlong whose code decides what is found."""
_DIGEST_BYTES = 32


class KeptFindings:
    """The file of a model, which may be there or not."""

    def __init__(self, model: PreTrainedModel, watch: Watch, key: str) -> None:
        self._decoder = decoder_of(model)
        self._watch = watch
        self._path = cache() / "attached" / f"{type(model).__name__}-{key[:32]}"

    @classmethod
    def of(cls, model: PreTrainedModel, route: AttentionHook) -> KeptFindings | None:
        """The model's; None for one that is small, not wholly on the CPU, or changed by others."""
        parameters = list(model.parameters())
        if sum(p.numel() for p in parameters) < FEWEST_WEIGHTS or is_sharded(model):
            return None
        if any(p.device.type != "cpu" for p in parameters):
            return None
        decoder = decoder_of(model)
        watch = Watch(decoder)
        if watch.other is not None or not watch.plain() or "forward" in vars(decoder):
            return None
        try:
            return cls(model, watch, _key(model, route))
        except (OSError, TypeError):  # a class without a source file
            return None

    def read(self) -> ModelLayout | None:
        """The layout, if it is kept and whole; the decoder is then given the program that was kept with it."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            logger.info("%s: damaged, the model is probed anew", self._path.name)
            return None
        try:
            tensors = load(body)
            document = json.loads(bytes(tensors.pop("document").numpy()))
            layout = _layout(document["layout"], tensors)
            program = self._program(document["program"], tensors)
        except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, NotPortable) as error:
            logger.info("%s: not readable (%s), the model is probed anew", self._path.name, error)
            return None
        if program is not None or document["reason"] is not None:
            switch_of(self._decoder).adopt(self._watch, program, document["reason"])
        return layout

    def _program(self, document: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Program | None:
        native = extension()
        if document is None or native is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            return from_plain(document, tensors, self._decoder, native)

    def write(self, layout: ModelLayout) -> None:
        """Keep the layout, and the program that the decoder has by now; a cache that cannot be written is none."""
        document, tensors = _plain_layout(layout)
        switch = switch_of(self._decoder)
        program = None
        if switch.made is not None:
            try:
                program, more = as_plain(switch.made, self._decoder)
                tensors |= more
            except NotPortable as error:
                logger.info("the list of a decoder is not kept: %s", error)
        whole = json.dumps({"layout": document, "program": program, "reason": switch.reason}).encode()
        tensors["document"] = torch.frombuffer(bytearray(whole), dtype=torch.uint8)
        body = save({name: x.contiguous() for name, x in tensors.items()})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".partial-") as folder:
                draft = Path(folder) / "new"
                draft.write_bytes(hashlib.sha256(body).digest() + body)
                draft.replace(self._path)
        except OSError as error:
            logger.info("what was found out about the model is not kept: %s", error)


def _key(model: PreTrainedModel, route: AttentionHook) -> str:
    """A digest of all that the findings follow from."""
    found = hashlib.sha256()
    parts = [versions(), description(), type(route).__name__, configuration_digest(model), weights_digest(model)]
    parts += [getattr(model.config, "_attn_implementation", None), torch.backends.cpu.get_cpu_capability()]
    found.update(json.dumps(parts).encode())
    for line in (*_sources(model), *_functions(model), *_settings(model)):
        found.update(line.encode())
    for name, buffer in model.named_buffers():
        found.update(f"{name} {buffer.dtype} {tuple(buffer.shape)} {tuple(buffer.stride())}".encode())
        found.update(sample(buffer))
    return found.hexdigest()


def _sources(model: PreTrainedModel) -> Iterator[str]:
    """Size and time of the files whose code decides what is found: everlong's, and those of the model's classes."""
    package = Path(__file__).parents[1]
    files = {file for kind in ("*.so", "*.pyd") for file in package.glob(kind)}
    files |= {file for folder in _DECIDING for file in (package / folder).rglob("*.py")}
    files |= {Path(inspect.getfile(cls)) for cls in {type(m) for m in model.modules()}}
    for file in sorted(files):
        facts = file.stat()
        yield f"{file} {facts.st_size} {facts.st_mtime_ns}"


def _functions(model: nn.Module) -> Iterator[str]:
    """Where the functions that the model's modules of code call come from: others may stand in for them."""
    for name in sorted({type(m).__module__ for m in model.modules()}):
        own = vars(sys.modules[name]).items()
        yield f"{name} {sorted((n, f.__module__, f.__qualname__) for n, f in own if inspect.isfunction(f))}"


def _settings(model: nn.Module) -> Iterator[str]:
    """The class of each module and its own plain settings, strides of weights among them."""
    for name, module in model.named_modules():
        own = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str) and k != "training"}
        strides = [tuple(p.stride()) for p in module.parameters(recurse=False)]
        cls = type(module)
        yield f"{name} {cls.__module__}.{cls.__qualname__} {_forward_of(module)} {sorted(own.items())} {strides}"


def _forward_of(module: nn.Module) -> str:
    """Where the forward of a module's class comes from."""
    forward = type(module).forward
    return f"{getattr(forward, '__module__', None)}.{getattr(forward, '__qualname__', None)}"


def _plain_layout(layout: ModelLayout) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A layout as plain data, frequencies as tensors; layers that rotate alike share one."""
    rotations: list[Rotation] = []
    layers = []
    for layer in layout.layers:
        number = None
        if layer.rotation is not None:
            known = [n for n, r in enumerate(rotations) if r is layer.rotation]
            number = known[0] if known else len(rotations)
            rotations += [] if known else [layer.rotation]
        layers.append(asdict(replace(layer, rotation=None)) | {"rotation": number})
    plain = {
        "layers": layers,
        "rotations": [[r.start, r.interleaved] for r in rotations],
        "lengths": [layout.trained_length, layout.hard_length],
        "dtype": str(layout.dtype).removeprefix("torch."),
        "alibi": layout.alibi,
        "heads": layout.heads,
        "depth": layout.depth,
        "states": [asdict(state) for state in layout.states],
        "steps_singly": layout.steps_singly,
        "axes_together": layout.axes_together,
    }
    return plain, {f"freqs {n}": r.freqs for n, r in enumerate(rotations)}


def _layout(plain: dict[str, Any], tensors: dict[str, Tensor]) -> ModelLayout:
    rotations = [Rotation(tensors[f"freqs {n}"], *rest) for n, rest in enumerate(plain["rotations"])]
    dtype = getattr(torch, plain["dtype"])
    layers = tuple(_layer(layer, rotations) for layer in plain["layers"])
    trained, hard = plain["lengths"]
    states = tuple(StatePlan(**state) for state in plain["states"])
    more = {name: plain[name] for name in ("alibi", "heads", "depth", "steps_singly", "axes_together")}
    return ModelLayout(layers, trained, hard, dtype, states=states, **more)


def _layer(plain: dict[str, Any], rotations: list[Rotation]) -> LayerPlan:
    temperature = plain["temperature"]
    made: dict[str, Any] = {
        "pattern": Pattern(**plain["pattern"]),
        "rotation": None if plain["rotation"] is None else rotations[plain["rotation"]],
        "temperature": None if temperature is None else Temperature(**temperature),
        "key": None if plain["key"] is None else tuple(plain["key"]),
        "value": None if plain["value"] is None else tuple(plain["value"]),
    }
    return LayerPlan(**{**plain, **made})
