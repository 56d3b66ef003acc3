"""A tiny hybrid trained on pass keys finds them at 16 times the trained length with blocks, and not with sinks."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor

from everlong import Blocks, Sinks
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.session import Session

LENGTH = 64
VOCAB = 64
KEY, ASK = 1, 2
"""The tokens in front of the pass key, and of its answer; keys are made of 4 .. 23, the hay of 24 and more."""
DIGITS = 4
LAYERS = ["linear_attention", "full_attention"] * 2
SIZES = {
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
    "layer_types": LAYERS,
    "mlp_only_layers": [0, 1, 2, 3],
}
BLOCKS = Blocks(sinks=4, window=28, block=8, top_k=3, exec_chunk=8, choose_every=1, pool=1, recall="layer")


def hidden(draw: torch.Generator, length: int, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Hay of `length` tokens with a key that begins between `first` and `last`; and the key."""
    text = torch.randint(24, VOCAB, (length,), generator=draw)
    key = torch.randint(4, 24, (DIGITS,), generator=draw)
    at = int(torch.randint(first, last, (1,), generator=draw))
    text[at : at + 1 + DIGITS] = torch.cat([torch.tensor([KEY]), key])
    return text, key


def trained(steps: int) -> transformers.PreTrainedModel:
    """The model after so many steps on texts that grow to `LENGTH` tokens; only the answer counts."""
    draw = torch.Generator().manual_seed(1)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    model = transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**SIZES, **ends))
    learn = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        for group in learn.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50)
        length = min(LENGTH, 24 + step // 10 * 2) - DIGITS - 1
        rows = [hidden(draw, length, 2, length - DIGITS - 1) for _ in range(32)]
        ids = torch.stack([torch.cat([text, torch.tensor([ASK]), key]) for text, key in rows])
        logits = model(ids).logits[:, -DIGITS - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -DIGITS:].flatten())
        learn.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        learn.step()
    return model.eval()


def found(model: transformers.PreTrainedModel, method: Method, text: Tensor, key: Tensor) -> bool:
    """Whether the key is written behind the text."""
    with Session(Loaded(model, None, "tiny"), method, LENGTH) as session:
        session.feed(text)
        session.feed([ASK], answering=True)
        for digit in key.tolist():
            if int(session.prediction.argmax()) != digit:
                return False
            session.feed([digit], answering=True)
    return True


@pytest.mark.slow(reason="trains a model for a minute; `make test` reads hybrids with random weights")
def test_blocks_find_what_has_left_the_window_of_a_hybrid():
    torch.use_deterministic_algorithms(False)
    model = trained(240)
    draw = torch.Generator().manual_seed(7)
    texts = [hidden(draw, 16 * LENGTH, 8, 15 * LENGTH) for _ in range(10)]
    found_with_blocks = sum(found(model, BLOCKS, *one) for one in texts)
    assert found_with_blocks >= 9, found_with_blocks
    assert sum(found(model, Sinks(sinks=4, window=28), *one) for one in texts) == 0
