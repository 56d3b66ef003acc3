"""Images as tokens of a stream: what a model's own processor makes of them, and how it writes one into a text."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from everlong.errors import CapabilityError, InputError, one_line

DIGEST = "image-"
"""What the digest of a source begins with that is an image."""
_BEFORE = "everlong before"
_BEHIND = "everlong behind"
_OWN = {"input_ids", "attention_mask"}
"""What a processor gives that is no image's."""


@dataclass(frozen=True)
class ImageTokens:
    """Ids [n] of an image, those around it included, and what the model is given with them; `digest` is the image's."""

    ids: Int[Tensor, " n"]
    extra: dict[str, Tensor]
    digest: str


def opened_image(x: Any) -> Any:
    """The image of Pillow, in three colours; InputError for a file that holds none."""
    if importlib.util.find_spec("PIL") is None:
        raise CapabilityError("image: Pillow is not installed; pip install 'everlong[images]'")
    from PIL import Image, UnidentifiedImageError

    if not isinstance(x, Path):
        return x.convert("RGB")
    try:
        with Image.open(x) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        reason = "no image that Pillow reads" if isinstance(error, UnidentifiedImageError) else one_line(error, 100)
        raise InputError(f"{x}: {reason}; give a PNG, JPEG, WebP or GIF file") from error


def image_digest(opened: Any) -> str:
    """The digest of an image's points, whatever file they lie in."""
    return DIGEST + hashlib.sha256(opened.tobytes() + str(opened.size).encode()).hexdigest()


class ImageReader:
    """Turns images into tokens as `processor` does: of transformers, with an image processor and a tokenizer."""

    def __init__(self, processor: Any) -> None:
        if processor is None:
            raise CapabilityError(
                "image: this session has no processor for images; load a model that takes images and text, with its "
                "processor beside it (preprocessor_config.json), or give Session the pair (model, processor)"
            )
        self._processor = processor
        self._written = _written(processor)

    def read(self, image: Any, first: bool = False) -> ImageTokens:
        """The tokens of an image; `first`: with those that the tokenizer puts in front of a text.

        InputError for what the processor does not take.
        """
        opened = opened_image(image)
        try:
            found = self._processor(
                text=[self._written], images=[opened], return_tensors="pt", add_special_tokens=first
            )
        except (ValueError, TypeError, RuntimeError) as error:
            size = "x".join(map(str, opened.size))
            raise InputError(f"image of {size}: the processor does not take it ({one_line(error, 120)})") from error
        extra = {name: x for name, x in found.items() if name not in _OWN and isinstance(x, Tensor)}
        return ImageTokens(found["input_ids"][0].to(torch.int64).cpu(), extra, image_digest(opened))


def _written(processor: Any) -> str:
    """What stands in a text for an image, as the processor's chat template writes it; else its own word for one."""
    said: Sequence[dict[str, str]] = (
        {"type": "text", "text": _BEFORE},
        {"type": "image"},
        {"type": "text", "text": _BEHIND},
    )
    if getattr(processor, "chat_template", None) is not None:
        rendered = processor.apply_chat_template([{"role": "user", "content": list(said)}], tokenize=False)
        _, before, rest = rendered.partition(_BEFORE)
        between, behind, _ = rest.partition(_BEHIND)
        if before and behind and between.strip():
            return between.strip()
    word = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    if not isinstance(word, str):
        raise CapabilityError(
            f"image: {type(processor).__name__} does not say how it writes an image into a text; give it a "
            "chat template"
        )
    return word
