r"""Whether a GPU gives what the CPU gives, by tiny family and method, and how fast a model of half a billion reads.

    python benchmarks/gpu.py --out benchmarks/results/gpu_h200.json

From the folder of the project (it uses the families of its tests). The model that reads has the shape of Qwen2.5-0.5B,
random weights and bfloat16. At each length: tokens/s of the last stretch read before it, and milliseconds of a token
written behind it (median over 32 with its quartiles, each waited for, as in an answer). `transformers` beyond --dense
is given random keys instead of reading, so only its tokens are timed there. --profile prints what the processor does.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import json
import pstats
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import everlong
from everlong.errors import EverlongError
from everlong.hooks.program.switch import switch_of
from everlong.machine import circumstances, commit
from everlong.methods import Method
from everlong.models.internals import decoder_of
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
STRETCH = 16384
"""Tokens before a length whose reading is timed."""
WRITTEN = 32
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


@torch.no_grad()
def logits(model: Any, method: Method) -> torch.Tensor:
    """Of 60 tokens read 20 at a time, and 30 more one by one."""
    ids = tokens(90).to(model.device)
    with everlong.attach(model, method) as handle:
        cache = handle.new_cache(chunk=32)
        found = [stream(model, cache, ids[:, :60], 20), stream(model, cache, ids[:, 60:], 1)]
        cache.close()
    return torch.cat(found, 1).double().cpu()


def families(seconds: float) -> list[dict[str, Any]]:
    """The relative distance for each family and method; what the CPU refuses is left out, and what is too late."""
    rows = []
    end = time.perf_counter() + seconds
    for family in FAMILIES:
        if time.perf_counter() > end:
            print(f"no time for {family.name} and those behind it")
            break
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
                | {"graph": switch_of(decoder_of(there)).reason}
            )
    return rows


@torch.no_grad()
def written(model: Any, cache: Any, ids: torch.Tensor) -> list[float]:
    """Milliseconds of each token written one by one; its id is waited for."""
    found = []
    token = ids[:, :1]
    for n in range(8 + WRITTEN):
        start = time.perf_counter()
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        int(token)
        if n >= 8:
            found.append((time.perf_counter() - start) * 1e3)
    return found


@torch.no_grad()
def read(model: Any, cache: Any, ids: torch.Tensor, chunk: int) -> float:
    """Seconds that reading `ids` takes."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for first in range(0, ids.shape[1], chunk):
        model(input_ids=ids[:, first : first + chunk], past_key_values=cache, use_cache=True, logits_to_keep=1)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def random_cache(config: Any, length: int) -> DynamicCache:
    """A cache of transformers with so many random keys and values."""
    cache = DynamicCache(config=config)
    shape = (1, config.num_key_value_heads, length, config.hidden_size // config.num_attention_heads)
    for layer in range(config.num_hidden_layers):
        cache.update(*(torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(2)), layer)
    return cache


def row(name: str, chunk: int, length: int, times: list[float], speed: float | None) -> dict[str, Any]:
    """One measurement, printed too."""
    quartiles = [round(x, 3) for x in statistics.quantiles(times, n=4)]
    found = {"method": name, "chunk": chunk, "length": length, "ms_per_token": quartiles[1], "quartiles": quartiles}
    found |= {"tokens_per_s": speed and round(speed), "peak_mib": torch.cuda.max_memory_allocated() >> 20}
    print(found, flush=True)
    return found


def speeds(lengths: list[int], chunk: int, dense: int, seconds: float, names: list[str]) -> list[dict[str, Any]]:
    """Every reader at every length; a reader ends where its next stretch would take more than `seconds`."""
    config = Qwen2Config(**SHAPE)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        ids = torch.randint(0, 150000, (1, max(lengths)))
    rows = []
    for name in filter(None, names):
        method = READERS[name]
        torch.cuda.reset_peak_memory_stats()
        if method is None:
            for length in lengths:
                fits = length <= dense
                cache: Any = DynamicCache(config=config) if fits else random_cache(config, length)
                if fits:
                    read(model, cache, ids[:, : length - STRETCH], chunk)
                speed = STRETCH / read(model, cache, ids[:, length - STRETCH : length], chunk) if fits else None
                rows.append(row(name, chunk, length, written(model, cache, ids), speed))
                del cache
            continue
        with everlong.attach(model, method) as handle:
            cache = handle.new_cache(chunk=chunk)
            at = 0
            speed = float("inf")
            for length in lengths:
                if (length - at) / speed > seconds:
                    break
                read(model, cache, ids[:, at : length - STRETCH], chunk)
                speed = STRETCH / read(model, cache, ids[:, length - STRETCH : length], chunk)
                at = length
                twin = cache.fork()
                if twin.stream.blocks is not None:
                    twin.stream.blocks.answering = True
                rows.append(row(name, chunk, length, written(model, twin, ids), speed))
                twin.close()
            cache.close()
    return rows


def profile(chunk: int, names: list[str]) -> None:
    """What the processor does while a reader reads 16K tokens, and writes 32."""
    config = Qwen2Config(**SHAPE)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        ids = torch.randint(0, 150000, (1, 16384))
    for name in names:
        if READERS[name] is None:
            continue
        with everlong.attach(model, READERS[name]) as handle:
            cache = handle.new_cache(chunk=chunk)
            read(model, cache, ids, chunk)
            for what in ("read", "written"):
                if what == "written" and cache.stream.blocks is not None:
                    cache.stream.blocks.answering = True
                seen = cProfile.Profile()
                seen.enable()
                read(model, cache, ids, chunk) if what == "read" else written(model, cache, ids)
                seen.disable()
                print(f"== {name}, {what}")
                pstats.Stats(seen).sort_stats("tottime").print_stats(22)
            print(name, "program:", switch_of(model.model).reason)
            cache.close()


def main() -> None:
    """Both parts, written to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="32768,131072,524288,1048576")
    parser.add_argument("--dense", type=int, default=131072, help="transformers read so many tokens at most")
    parser.add_argument("--seconds", type=float, default=60, help="a reader ends before a longer stretch")
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--families", type=float, default=600, help="seconds for them; 0: none")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no CUDA device here")
    names = args.readers.split(",")
    if args.profile:
        profile(args.chunk, [name for name in names if name])
    found: dict[str, Any] = {
        "commit": commit(Path(__file__).parent),
        "on": circumstances(),
        "gpu": torch.cuda.get_device_name(),
    }
    if args.families:
        compared = families(args.families)
        worst = max(compared, key=lambda row: row["off"])
        print(f"{len(compared)} families and methods; the farthest from the CPU: {worst}", flush=True)
        found |= {"families": compared}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lengths = [int(length) for length in args.lengths.split(",")]
    found["speeds"] = speeds(lengths, args.chunk, args.dense, args.seconds, names)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
