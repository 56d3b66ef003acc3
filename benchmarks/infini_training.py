r"""Infini-attention in training: all segments of a layer at once against one segment after the other.

    python benchmarks/infini_training.py --out benchmarks/results/infini_training.json

Both compute the same loss and the same gradients (the record has their difference); one thread, the two in turn, CPU
seconds of forward and backward. Models are Llamas from scratch: that of everlong/infini-passkey, and a wider one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import everlong
from everlong.hooks.training import attach_training
from everlong.machine import circumstances
from everlong.methods.recurrent.training import Carried

SHAPES = {
    "64 wide, 3 layers": {
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    "256 wide, 4 layers": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
}
SEGMENT, TOKENS, ROWS, VOCABULARY = 128, 2048, 4, 512


def loss_of(model: Any, ids: torch.Tensor, piece: int) -> torch.Tensor:
    """Mean -log p, the rows read in pieces of so many tokens that carry the memory on."""
    carried, total = Carried(), torch.zeros(())
    following = torch.nn.functional.pad(ids[:, 1:], (0, 1))
    for a in range(0, ids.shape[1], piece):
        logits = model(input_ids=ids[:, a : a + piece], carried=carried, use_cache=False).logits
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), following[:, a : a + piece].flatten(), reduction="sum"
        )
    return total / ids.numel()


def step(model: Any, ids: torch.Tensor, piece: int) -> tuple[float, torch.Tensor]:
    """(CPU seconds of one forward and backward, the gradients)."""
    model.zero_grad()
    start = time.process_time()
    loss_of(model, ids, piece).backward()
    seconds = time.process_time() - start
    return seconds, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape, fields in SHAPES.items():
        for update in ("linear", "delta"):
            torch.manual_seed(0)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **fields))
            ids = torch.randint(VOCABULARY, (ROWS, TOKENS))
            with attach_training(model, everlong.Infini(segment=SEGMENT, update=update, local="segment", beta=0.0)):
                seconds: dict[str, list[float]] = {"parallel": [], "loop": []}
                gradients = {}
                for _ in range(args.repeats):
                    for name, piece in (("parallel", TOKENS), ("loop", SEGMENT)):
                        spent, gradients[name] = step(model, ids, piece)
                        seconds[name].append(spent)
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            difference = float((gradients["parallel"] - gradients["loop"]).norm() / gradients["loop"].norm())
            rows.append(
                {
                    "model": shape,
                    "update": update,
                    **{f"{name}_cpu_s": round(medians[name], 4) for name in medians},
                    "spread": {n: round((max(v) - min(v)) / medians[n], 3) for n, v in seconds.items()},
                    "loop_over_parallel": round(medians["loop"] / medians["parallel"], 3),
                    "gradient_difference": difference,
                }
            )
            print(rows[-1], flush=True)
    sizes = {"segment": SEGMENT, "tokens": TOKENS, "rows": ROWS, "repeats": args.repeats}
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "sizes": sizes, "rows": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
