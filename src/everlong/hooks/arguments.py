"""What a caller's forward asks for beside its tokens: padding, positions, attentions. What is not honoured is refused.

Letters: B rows, T new tokens, N tokens of the whole stream (new ones included).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.cache.positions import ImagePlanes
from everlong.cache.stream import CachedStream
from everlong.errors import CapabilityError
from everlong.ops.spans import Ints

ALONE = "or run the rows one by one"
AXES = 3
"""Planes of positions that an image's tokens have; one more in front of them counts tokens, for masks alone."""


def new_tokens(given: Mapping[str, Any]) -> Tensor:
    """The ids [B, T] or embeddings [B, T, W] of a forward; CapabilityError if there are none."""
    new = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
    if new is None or not new.shape[1]:
        raise CapabilityError(
            "input_ids: brings no new tokens; give at least one (generate takes the whole text so far, of which it "
            "leaves out what the cache has seen)"
        )
    return new


def left_padding(stream: CachedStream, mask: Any, rows: int, tokens: int, per_row: bool) -> Ints | None:
    """How many columns of padding stand before each row, as `mask` says; None: none, or no more than is known.

    Padding may go on over several forwards. CapabilityError for a mask that hides anything else.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise CapabilityError("attention_mask: StreamCache takes 2-D masks [rows, tokens] or none; leave it out")
    total = stream.seen_tokens + tokens
    if mask.shape != (rows, total):
        raise CapabilityError(
            f"attention_mask: is {list(mask.shape)}, expected {[rows, total]}: {rows} rows of {stream.seen_tokens} "
            f"tokens read before and {tokens} new ones; give it so, or leave it out"
        )
    shown = mask.to("cpu", torch.bool).numpy()
    known = np.zeros(rows, dtype=np.int64) if stream.pads is None else stream.pads
    first = np.where(shown.any(1), shown.argmax(1), total).astype(np.int64)
    pads = np.where(known == stream.seen_tokens, first, known)
    if not np.array_equal(shown, np.arange(total) >= pads[:, None]) or (pads.any() and not per_row):
        raise CapabilityError(
            "attention_mask: only left padding, of models with rotary positions and no linear layers, is handled, and "
            f"what was read before cannot be hidden later; pad on the left (tokenizer.padding_side='left'), {ALONE}"
        )
    return None if np.array_equal(pads, known) else pads


def checked_planes(
    stream: CachedStream, positions: Any, tokens: int, pads: Ints | None, anew: bool
) -> ImagePlanes | None:
    """Where new tokens stand by axis, if there are images among them; CapabilityError for wrong `positions`.

    They must go on where the stream ends: 0, 1, 2, ... in each row of text, padding left out; or from 0 on for the new
    tokens alone (`anew`).
    """
    first = stream.places.at(stream.seen_tokens)
    if isinstance(positions, Tensor) and positions.ndim == 3 and len(positions) > AXES:
        positions = positions[-AXES:]
    planes = _planes(first, positions, tokens, anew)
    if planes is None:
        _check_positions(0 if anew else first, positions, tokens, pads)
    return planes


def _planes(first: int, positions: Any, tokens: int, anew: bool) -> ImagePlanes | None:
    """What `positions` [P, B, T] say of time, height and width; None if all axes are alike."""
    if not isinstance(positions, Tensor) or positions.ndim != 3 or len(positions) != AXES:
        return None
    planes = positions.cpu().numpy().astype(np.int64)
    if (planes == planes[:1]).all():
        return None
    if planes.shape[1] != 1:
        raise CapabilityError(f"position_ids: {planes.shape[1]} rows with images in them; read one stream at a time")
    if planes.shape[2] != tokens:
        raise CapabilityError(f"position_ids: got {planes.shape[2]} for {tokens} new tokens; leave position_ids out")
    found = ImagePlanes(planes[:, 0] + (first if anew else 0))
    if found.places[0] != first:
        raise CapabilityError(
            f"position_ids: an image's begin at {found.places[0]} where {first} comes next; give those that go on "
            "behind the tokens read before, or leave position_ids out"
        )
    return found


def _check_positions(first: int, positions: Any, tokens: int, pads: Ints | None) -> None:
    """CapabilityError unless `positions` are first, first + 1, ... in each row and plane; padding may have any."""
    if positions is None:
        return
    own = np.arange(first, first + tokens)[None]
    if pads is not None:
        own = own - pads[:, None]
    got = positions.cpu().numpy()
    if got.shape[-1] != tokens or (got.ndim > 1 and len(own) > 1 and got.shape[-2] not in (1, len(own))):
        raise CapabilityError(f"position_ids: got {list(got.shape)} for {tokens} new tokens; leave position_ids out")
    got, own = np.broadcast_arrays(got, own)
    wrong = np.argwhere((got != own) & (own >= 0))
    if len(wrong):
        at = tuple(wrong[0])
        raise CapabilityError(
            f"position_ids: got {got[at]} where {own[at]} comes next, as the stream counts its tokens itself (padding "
            "left out); leave position_ids out (positions that start anew or jump are not handled)"
        )


def check_mode(decoder: Any) -> None:
    """CapabilityError for a decoder in training mode whose forward draws random numbers or keeps gradients."""
    if not decoder.training:
        return
    numbers = decoder.config.to_dict().items()
    drops = [name for name, x in numbers if ("drop" in name or "jitter" in name) and isinstance(x, float) and x > 0]
    if drops or torch.is_grad_enabled():
        why = f"with {drops[0]}={decoder.config.to_dict()[drops[0]]}" if drops else "and keeps gradients"
        raise CapabilityError(f"StreamCache is for inference: the model is in training mode, {why}; call model.eval()")


def check_outputs(given: Mapping[str, Any], config: Any) -> None:
    """CapabilityError where attention weights are asked for."""
    asked = given.get("output_attentions")
    if asked or (asked is None and getattr(config, "output_attentions", False)):
        raise CapabilityError(
            "output_attentions: attention weights are never made with a StreamCache; leave it out, or run the model "
            "without the cache"
        )
