"""Images that a stream reads: one forward each, wholly or not at all, each a source of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from everlong.engine.runner import CacheRunner
from everlong.engine.stream import StreamPiece, TokenStream, let_go
from everlong.errors import CapabilityError, InputError
from everlong.text.images import DIGEST, ImageReader, ImageTokens
from everlong.text.inputs import is_image
from everlong.text.offsets import plain_rows
from everlong.text.transcript import SOURCE


def feed(stream: TokenStream, x: Any, answering: bool, source: str) -> int:
    """Read a text with images in it, or an image; the number of tokens read.

    InputError or CapabilityError, before anything is read, for images that cannot be.
    """
    parts: Sequence[Any] = [x] if is_image(x) else x
    reader = ImageReader(stream.processor)
    if wrong := [part for part in parts if not is_image(part) and not isinstance(part, str)]:
        raise InputError(f"{type(wrong[0]).__name__}: expected texts and images in a list that has an image in it")
    start = stream.seen_tokens
    prepared = [
        reader.read(part, first=start == 0 and n == 0) if is_image(part) else part for n, part in enumerate(parts)
    ]
    for part in prepared:
        if isinstance(part, ImageTokens):
            _check(stream, part)
    for given, part in zip(parts, prepared, strict=True):
        if isinstance(part, ImageTokens):
            named = source if is_image(x) and source != SOURCE else image_name(stream, given)
            _read(stream, part, named, answering)
        elif part:
            stream.feed(part, answering, source)
    return stream.seen_tokens - start


def image_name(stream: TokenStream, image: Any) -> str:
    """What citations call an image: its file, or its number among the session's images."""
    known = [s for s in stream.transcript.sources if s.digest.startswith(DIGEST)]
    file = str(image) if isinstance(image, Path) else getattr(image, "filename", "")
    return str(file or f"image {len(known) + 1}")


def has_images(stream: TokenStream) -> bool:
    """Whether an image was read that was not forgotten."""
    return any(s.digest.startswith(DIGEST) for s in stream.transcript.sources)


def _check(stream: TokenStream, image: ImageTokens) -> None:
    """InputError or CapabilityError for an image that this stream cannot read."""
    runner = stream.runner
    if not isinstance(runner, CacheRunner):
        raise CapabilityError(f"image: {stream.method.name} reads ids again, which hold no image; use blocks or sinks")
    if stream.method.as_dict().get("keep") == "ids":
        raise CapabilityError("image: this session keeps ids only (keep=ids), which hold no image; use keep=blocks")
    if len(image.ids) > runner.chunk_limit:
        raise InputError(
            f"image: has {len(image.ids)} tokens, and this session reads at most {runner.chunk_limit} at once; give a "
            "smaller image, or a processor with fewer pixels (max_pixels, size)"
        )
    if int(image.ids.max()) >= stream.vocabulary:
        raise InputError(
            f"image: its token {int(image.ids.max())} is outside the model's vocabulary; another processor?"
        )


def _read(stream: TokenStream, image: ImageTokens, name: str, answering: bool) -> None:
    """Read an image as the source `name`; it is noted down with the piece, or not at all."""
    runner = stream.runner
    assert isinstance(runner, CacheRunner)
    if not answering:
        let_go(runner)
    stream.source = name
    (ids,) = stream.parts(image.ids, answering, whole=True)
    stream.awaited.clear()
    stream.awaited.add(torch.from_numpy(plain_rows(ids.numpy())), runner.seen_tokens)
    begun = stream.transcript.begin(name, image.digest) if stream.remembers else None
    try:
        with StreamPiece(stream, ids, answering) as piece:
            piece.took(runner.read(ids, piece.every, answering, image.extra))
    finally:
        if begun is not None and stream.seen_tokens == begun.first:
            stream.transcript.sources.remove(begun)
    if begun is not None:
        begun.done = True
