"""A decoder's program: recorded in a stream of its own, and compared with the decoder at other tokens and places."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.hooks.current_step import activate
from everlong.hooks.program.lower import Lowering
from everlong.hooks.program.record import NotRecorded, OperationRecorder, RecordedPlan
from everlong.hooks.program.run import Program, token_inputs
from everlong.hooks.routes.base import AttentionHook
from everlong.models.layout import ModelLayout
from everlong.ops.native import extension

BEFORE = 5
"""Tokens in front of the one that is recorded."""
CHECKED = 2
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative error of the hidden state; the program rounds to bfloat16 where attention is asked, and not in between."""


class Recording(NamedTuple):
    """A decoder, how it is attached, and its own forward."""

    decoder: Any
    plan: ModelLayout
    route: AttentionHook
    forward: Callable[..., Any]


@torch.inference_mode()
def make_program(model: Recording) -> Program:
    """The program of a decoder; NotRecorded where it has none, or gives other numbers."""
    native = extension()
    if native is None:
        raise NotRecorded("there is no C extension")
    stream = stream_to_record(model)
    before, ids = tokens_to_record(model)
    read(model, stream, before)
    recorder = OperationRecorder()
    inputs, out = read(model, stream, ids[:1], recorder)
    hidden = getattr(out, "last_hidden_state", None)
    if hidden is None or any(
        value is not None for name, value in out.items() if name not in ("last_hidden_state", "past_key_values")
    ):
        raise NotRecorded("it gives other than a hidden state")
    with torch.inference_mode(False), torch.no_grad():
        lowered = Lowering(model.decoder, recorder.found, inputs, hidden).lowered(hidden)
    program = Program(lowered, native, hidden.dtype, type(out))
    for token in ids[1:]:
        twin = stream.fork()
        with torch.no_grad():
            step, inputs = begun(twin, token[None])
            got = program.run([step], [inputs])
        check_near(got, read(model, stream, token[None])[1].last_hidden_state)
    twin = stream.fork()
    with torch.no_grad():
        step = twin.begin(len(ids))
        got = program.run([step], token_inputs([step], ids[None]))
    check_near(got, read(model, stream, ids)[1].last_hidden_state)
    return program


def stream_to_record(model: Recording) -> CachedStream:
    """A stream that holds all it reads."""
    return CachedStream(model.plan, "recording", 0, None)


def tokens_to_record(model: Recording) -> tuple[Tensor, Tensor]:
    """Tokens to read first, and 1 + `CHECKED` to record at and compare at, on the model's device."""
    embedding: Any = model.decoder.get_input_embeddings()
    count = BEFORE + 1 + CHECKED
    ids = torch.randint(embedding.weight.shape[0], (count,), generator=torch.Generator().manual_seed(0))
    ids = ids.to(embedding.weight.device)
    return ids[:BEFORE], ids[BEFORE:]


def check_near(got: Tensor, expected: Tensor) -> None:
    """NotRecorded where a program's hidden state is not the decoder's."""
    most = TOLERANCE[expected.dtype]
    error = float((got.float() - expected.float()).norm() / expected.float().norm())
    if not error <= most:
        raise NotRecorded(f"run from a list it differs by {error:.2g} (at most {most:.2g})")


def begun(stream: CachedStream, ids: Tensor) -> tuple[ForwardPlan, list[Tensor]]:
    """A step over these tokens, and what the decoder is given: ids and positions."""
    step = stream.begin(len(ids))
    return step, [ids[None], step.positions(ids.device)]


def read(
    model: Recording, stream: CachedStream, ids: Tensor, recorder: OperationRecorder | None = None
) -> tuple[list[Tensor], Any]:
    """The ids and positions that the decoder is given for these tokens, and what it gives."""
    step, inputs = begun(stream, ids)
    given = {"past_key_values": StreamCache(stream), "use_cache": True, "attention_mask": None}
    given |= {"input_ids": inputs[0], "position_ids": inputs[1]}
    if recorder is not None:
        stream.running = step = RecordedPlan(step, recorder)
    try:
        activate(step)
        with model.route.entered(step), nullcontext() if recorder is None else recorder.of(model.decoder):
            out = model.forward(**given)
        stream.commit()
        return inputs, out
    finally:
        activate(None)
        stream.abandon()
