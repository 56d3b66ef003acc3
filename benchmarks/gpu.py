r"""Whether a GPU gives what the CPU gives, by tiny family and method, and how fast a model of half a billion reads.

    python benchmarks/gpu.py --out benchmarks/results/gpu_h200.json

From the folder of the project (it uses the families of its tests). The model that reads has the shape of Qwen2.5-0.5B,
random weights and bfloat16; tokens/s are of the second half of the text, milliseconds of a token of 16 written ones.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import everlong
from everlong.errors import EverlongError
from everlong.machine import circumstances, commit
from everlong.methods import Method
from tests.families.configs import FAMILIES
from tests.families.models import build, stream, tokens

SMALL: dict[str, Method] = {
    "dense": everlong.Dense(),
    "window": everlong.Window(window=24),
    "sinks": everlong.Sinks(sinks=4, window=20),
    "blocks": everlong.Blocks(sinks=2, window=16, block=4, top_k=2, exec_chunk=8),
    "infini": everlong.Infini(segment=8),
}
READERS: dict[str, Method | None] = {
    "transformers": None,
    "dense": everlong.Dense(),
    "sinks": everlong.Sinks(),
    "blocks": everlong.Blocks(),
}
SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


def logits(model: Any, method: Method) -> torch.Tensor:
    """Of 90 tokens read 13 at a time."""
    with everlong.attach(model, method) as handle:
        cache = handle.new_cache(chunk=16)
        found = stream(model, cache, tokens(90).to(model.device), 13).double().cpu()
        cache.close()
    return found


def families() -> list[dict[str, Any]]:
    """The largest relative distance for each family and method; what the CPU refuses is left out."""
    rows = []
    for family in FAMILIES:
        model = build(family)
        there = copy.deepcopy(model).cuda()
        for name, method in SMALL.items():
            try:
                expected = logits(model, method)
            except EverlongError:
                continue
            got = logits(there, method)
            rows.append(
                {"family": family.name, "method": name, "off": float((got - expected).norm() / expected.norm())}
            )
    return rows


@torch.no_grad()
def read(model: Any, ids: torch.Tensor, cache: Any, chunk: int) -> dict[str, float]:
    """How fast the second half of `ids` is read, and a token is written behind it."""
    half = ids.shape[1] // 2
    for first in range(0, ids.shape[1], chunk):
        if first == half:
            torch.cuda.synchronize()
            start = time.perf_counter()
        model(input_ids=ids[:, first : first + chunk], past_key_values=cache, use_cache=True, logits_to_keep=1)
    torch.cuda.synchronize()
    seconds, start = time.perf_counter() - start, time.perf_counter()
    for _ in range(16):
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    torch.cuda.synchronize()
    return {"tokens_per_s": half / seconds, "ms_per_token": (time.perf_counter() - start) / 16 * 1e3}


def speeds(length: int, chunks: list[int]) -> list[dict[str, Any]]:
    """Every reader at every chunk."""
    config = Qwen2Config(**SHAPE)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        ids = torch.randint(0, 150000, (1, length))
    rows = []
    for name, method in READERS.items():
        for chunk in chunks:
            torch.cuda.reset_peak_memory_stats()
            if method is None:
                found = read(model, ids, DynamicCache(config=config), chunk)
            else:
                with everlong.attach(model, method) as handle:
                    cache = handle.new_cache(chunk=chunk)
                    found = read(model, ids, cache, chunk)
                    cache.close()
            rows.append({"method": name, "chunk": chunk, "peak_mib": torch.cuda.max_memory_allocated() >> 20} | found)
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Both parts, written to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--chunks", default="512,2048")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no CUDA device here")
    compared = families()
    worst = max(compared, key=lambda row: row["off"])
    print(f"{len(compared)} families and methods; the farthest from the CPU: {worst}")
    found: dict[str, Any] = {
        "commit": commit(Path(__file__).parent),
        "on": circumstances(),
        "gpu": torch.cuda.get_device_name(),
    }
    found |= {"families": compared}
    found["speeds"] = speeds(args.length, [int(chunk) for chunk in args.chunks.split(",")])
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
