"""A tiny model trained on pass keys shown in images finds them at 16 times the trained length with blocks."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor

from everlong import Blocks, Sinks
from everlong.engine.images import _read
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.session import Session
from everlong.text.images import ImageTokens

LENGTH = 64
VOCAB = 64
ASK, START, END, IMAGE = 1, 2, 3, 63
"""The tokens in front of the answer, around an image and of it; keys are made of 4 .. 23, the hay of 24 .. 62."""
DIGITS = 4
"""Tokens of an image, each of which shows one digit."""
PATCH = 2
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": LENGTH,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
    },
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": PATCH,
    "temporal_patch_size": 1,
    "spatial_merge_size": 1,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
}
GRID = (1, 2, 2)
PATTERNS = torch.randn(24, 3 * PATCH**2, generator=torch.Generator().manual_seed(5))
"""How each digit looks."""
BLOCKS = Blocks(sinks=4, window=28, block=8, top_k=3, exec_chunk=8, choose_every=1, pool=1, recall="layer")


def shown(key: Tensor) -> dict[str, Tensor]:
    """What a model is given with the tokens of an image that shows a key."""
    return {"pixel_values": PATTERNS[key], "image_grid_thw": torch.tensor([GRID])}


def image_ids() -> Tensor:
    """The tokens of an image, and those around it."""
    return torch.tensor([START, *[IMAGE] * DIGITS, END])


def drawn(draw: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
    """Hay, and a key."""
    return torch.randint(24, VOCAB - 1, (length,), generator=draw), torch.randint(4, 24, (DIGITS,), generator=draw)


def trained(steps: int) -> transformers.PreTrainedModel:
    """The model after so many steps on texts with an image that grow to `LENGTH` tokens; only the answer counts."""
    draw = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    config = transformers.Qwen3_5Config(text_config=TEXT, vision_config=VISION, image_token_id=IMAGE)
    model = transformers.Qwen3_5ForConditionalGeneration(config)
    learn = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        for group in learn.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50)
        length = min(LENGTH, 24 + step // 10 * 2) - 2 * DIGITS - 3
        rows, pixels = [], []
        for _ in range(32):
            hay, key = drawn(draw, length)
            at = int(torch.randint(2, length, (1,), generator=draw))
            rows.append(torch.cat([hay[:at], image_ids(), hay[at:], torch.tensor([ASK]), key]))
            pixels.append(PATTERNS[key])
        ids = torch.stack(rows)
        logits = model(
            input_ids=ids,
            pixel_values=torch.cat(pixels),
            image_grid_thw=torch.tensor([GRID] * len(rows)),
            mm_token_type_ids=(ids == IMAGE).int(),
        ).logits[:, -DIGITS - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -DIGITS:].flatten())
        learn.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        learn.step()
    return model.eval()


def found(model: transformers.PreTrainedModel, method: Method, hay: Tensor, key: Tensor, at: int) -> bool:
    """Whether the key is written behind a text that has its image in front of token `at`."""
    ids = image_ids()
    image = ImageTokens(ids, shown(key) | {"mm_token_type_ids": (ids == IMAGE).int()[None]}, "image-")
    with Session(Loaded(model, None, "tiny"), method, LENGTH) as session:
        session.feed(hay[:at])
        _read(session, image, "key", answering=False)
        session.feed(hay[at:])
        session.feed([ASK], answering=True)
        for digit in key.tolist():
            if int(session.prediction.argmax()) != digit:
                return False
            session.feed([digit], answering=True)
    return True


@pytest.mark.slow(reason="trains a model for minutes; `make test` reads images with random weights")
def test_blocks_find_a_key_of_an_image_that_has_left_the_window():
    torch.use_deterministic_algorithms(False)
    model = trained(300)
    draw = torch.Generator().manual_seed(7)
    texts = [(*drawn(draw, 16 * LENGTH), 8 + 90 * n) for n in range(10)]
    with_blocks = sum(found(model, BLOCKS, *one) for one in texts)
    assert with_blocks >= 9, with_blocks
    assert sum(found(model, Sinks(sinks=4, window=28), *one) for one in texts) == 0
