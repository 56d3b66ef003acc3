"""Tiny random models that take images, and streams of text with images in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from tests.families.models import randomise, tokens
from tests.families.zoo import tiny_config

PATCH = 4
MERGE = 2
GRIDS = ((1, 4, 6), (1, 8, 4), (1, 4, 4))
"""Patches of the images by time, height and width; MERGE x MERGE of them are one token."""

QWEN = {"patch_size": PATCH, "depth": 2, "embed_dim": 32, "out_hidden_size": 32, "image_size": 32}
SQUARE = {"patch_size": PATCH, "image_size": 16, "num_hidden_layers": 2}
VISION: dict[str, dict[str, Any]] = {
    "Qwen2VLForConditionalGeneration": {k: v for k, v in QWEN.items() if k != "out_hidden_size"},
    "Qwen2_5_VLForConditionalGeneration": QWEN | {"fullatt_block_indexes": [1], "window_size": 16},
    "Qwen3VLForConditionalGeneration": QWEN | {"deepstack_visual_indexes": [0, 1]},
    "Qwen3VLMoeForConditionalGeneration": QWEN | {"deepstack_visual_indexes": [0, 1]},
    "Qwen3_5ForConditionalGeneration": QWEN,
    "Glm4vForConditionalGeneration": QWEN,
    "PaddleOCRVLForConditionalGeneration": SQUARE,
    "LlavaForConditionalGeneration": SQUARE | {"hidden_size": 32},
    "InternVLForConditionalGeneration": SQUARE | {"patch_size": [PATCH, PATCH], "image_size": [16, 16]},
    "SmolVLMForConditionalGeneration": SQUARE,
    "LlavaOnevisionForConditionalGeneration": SQUARE,
}
WHOLE: dict[str, dict[str, Any]] = {
    "InternVLForConditionalGeneration": {"image_seq_length": 4},
    "LlavaForConditionalGeneration": {"image_seq_length": 16},
    "LlavaOnevisionForConditionalGeneration": {"image_grid_pinpoints": [[16, 16]]},
}
AXES = tuple(name for name in VISION if name.startswith(("Qwen", "Glm", "Paddle")))
"""Models in which an image's tokens stand on three axes."""


@dataclass(frozen=True)
class Part:
    """Ids [1, T] that are read at once, and what a model is given with them."""

    ids: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)


def seeing(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of the class that can be given images, in float32, in evaluation mode."""
    config = tiny_config(name)
    for field_name, value in VISION[name].items():
        setattr(config.vision_config, field_name, value)
    for field_name, value in WHOLE.get(name, {}).items():
        setattr(config, field_name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, name)(config).eval()
        randomise(model, 0.2)
    return model


def parts(model: PreTrainedModel, texts: tuple[int, ...] = (5, 3, 9, 12)) -> list[Part]:
    """Texts of these lengths with an image between each two of them, to be read part by part."""
    found: list[Part] = []
    for n, length in enumerate(texts):
        if n:
            found.append(image(model, n))
        found.append(Part(tokens(length, seed=50 + n) % 90 + 3))
    return found


def image(model: PreTrainedModel, seed: int) -> Part:
    """A random image: its tokens between two of text."""
    draw = torch.Generator().manual_seed(seed)
    config = model.config
    vision = config.vision_config
    if type(model).__name__ in AXES:
        grid = GRIDS[seed % len(GRIDS)]
        count = grid[1] * grid[2] // MERGE**2
        flat = 3 * PATCH**2 * (getattr(vision, "temporal_patch_size", None) or 1)
        shape = (grid[1] * grid[2], flat)
        if "Paddle" in type(model).__name__:
            shape = (grid[1] * grid[2], 3, PATCH, PATCH)
        extra = {"pixel_values": torch.randn(shape, generator=draw), "image_grid_thw": torch.tensor([grid])}
    else:
        count = 4 if type(model).__name__.startswith(("Intern", "Smol")) else 16
        pixels = torch.randn(1, 3, 16, 16, generator=draw)
        extra = {"pixel_values": pixels}
        if "Smol" in type(model).__name__:
            extra = {"pixel_values": pixels[:, None]}
        if "Onevision" in type(model).__name__:
            count = 16 + 16 + 4  # the whole, its one tile, and an end of each of its lines
            extra = {"pixel_values": pixels.expand(2, -1, -1, -1)[None], "image_sizes": torch.tensor([[16, 16]])}
    ids = torch.tensor([[11, *[config.image_token_id] * count, 12]])
    if type(model).__name__ in AXES:
        extra["mm_token_type_ids"] = (ids == config.image_token_id).int()
    return Part(ids, extra)


def video(model: PreTrainedModel, seed: int = 9) -> Part:
    """A random video of two times of four tokens each, between two tokens of text."""
    draw = torch.Generator().manual_seed(seed)
    flat = 3 * PATCH**2 * model.config.vision_config.temporal_patch_size
    ids = torch.tensor([[11, *[model.config.video_token_id] * 8, 12]])
    return Part(
        ids,
        {
            "pixel_values_videos": torch.randn(32, flat, generator=draw),
            "video_grid_thw": torch.tensor([[2, 4, 4]]),
            "mm_token_type_ids": 2 * (ids == model.config.video_token_id).int(),
        },
    )


def at_once(model: PreTrainedModel, given: list[Part]) -> Part:
    """All parts as one."""
    extra: dict[str, list[Tensor]] = {}
    for part in given:
        for name, x in part.extra.items():
            extra.setdefault(name, []).append(x)
    joined = {name: torch.cat(found) for name, found in extra.items() if name != "mm_token_type_ids"}
    ids = torch.cat([part.ids for part in given], 1)
    if "mm_token_type_ids" in extra:
        kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
        joined["mm_token_type_ids"] = kinds
    return Part(ids, joined)


def planes_of(model: PreTrainedModel, whole: Part) -> Tensor:
    """The positions [3, T] that the stock model gives to a stream that is read at once."""
    base: Any = model.base_model
    planes, _ = base.get_rope_index(whole.ids, **{k: x for k, x in whole.extra.items() if k != "pixel_values"})
    return planes[-3:, 0]


@torch.no_grad()
def stock(model: PreTrainedModel, whole: Part) -> Tensor:
    """Logits [1, T, vocabulary] of the unmodified model."""
    return model(input_ids=whole.ids, use_cache=False, **whole.extra).logits


@torch.no_grad()
def read(model: PreTrainedModel, cache: Any, given: list[Part], cut: int | None = None) -> Tensor:
    """Logits of the same parts one by one over a cache; texts in pieces of `cut`."""
    return torch.cat([model(input_ids=p.ids, past_key_values=cache, **p.extra).logits for p in pieces(given, cut)], 1)


def pieces(given: list[Part], cut: int | None) -> Iterator[Part]:
    """The parts, texts among them cut."""
    for part in given:
        if part.extra or cut is None:
            yield part
        else:
            yield from (Part(ids) for ids in part.ids.split(cut, 1))
