"""SmolLM2 in float32: the same logits for any chunking, as the slow reference, and after 50 million tokens.

    python benchmarks/parity.py --book ../shared/data/books/moby-dick_2701.txt --out benchmarks/results/parity.json

Limits (shared specification of the methods): 4e-4 between chunkings and against the float64 reference that keeps raw
keys and rotates everything at each step; 1e-3 with the stream's index moved up by 50 million.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

import everlong
from everlong.cache.state import load_stream, stream_state
from everlong.cache.stream_cache import StreamCache

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.reference import SlowSinks

CHUNKS = (1, 7, 64, 512, 1024)


def read(model: torch.nn.Module, cache: StreamCache, ids: torch.Tensor, chunk: int) -> torch.Tensor:
    """Logits [tokens, vocabulary] of `ids` [1, tokens], read in chunks."""
    with torch.inference_mode():
        return torch.cat([model(p, past_key_values=cache).logits for p in ids.split(chunk, 1)], 1)[0]


def moved(cache: StreamCache, fresh: StreamCache, offset: int) -> StreamCache:
    """`fresh` with the state of `cache`, as if `offset` more tokens had gone before."""
    tensors, facts = stream_state(cache.stream)
    facts["seen"] += offset
    facts["segments"] = [[s + offset, b + offset] for s, b in facts["segments"]]
    facts["shifts"] = {i: s + offset for i, s in facts["shifts"].items()}
    load_stream(fresh.stream, tensors, facts)
    return fresh


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1100)
    parser.add_argument("--reference-tokens", type=int, default=400)
    parser.add_argument("--window", type=int, default=252)
    parser.add_argument("--offset", type=int, default=50_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2", dtype="float32")
    model, text = loaded.model, args.book.read_text(encoding="utf-8")[20_000:40_000]
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, : args.tokens]
    differences: dict[str, float] = {}
    with everlong.attach(model, everlong.Sinks(sinks=4, window=args.window)) as handle:
        logits = {}
        for chunk in CHUNKS:
            logits[chunk] = read(model, handle.new_cache(), ids, chunk)
            differences[f"chunk {chunk} against 1"] = float((logits[chunk] - logits[1]).abs().max())
        with torch.inference_mode():
            stock = model(ids[:, : args.window]).logits[0]
        differences["stock model, while all fits"] = float((stock - logits[64][: args.window]).abs().max())
        slow = SlowSinks(model, 4, args.window).read(ids[:, : args.reference_tokens])
        for chunk in CHUNKS:
            difference = (slow - logits[chunk][: args.reference_tokens]).abs().max()
            differences[f"chunk {chunk} against the float64 reference"] = float(difference)
        half = args.tokens // 2
        cache = handle.new_cache()
        read(model, cache, ids[:, :half], 64)
        late = moved(cache, handle.new_cache(), args.offset)
        at_offset = read(model, late, ids[:, half:], 64) - read(model, cache, ids[:, half:], 64)
        differences[f"{args.offset:,} tokens later"] = float(at_offset.abs().max())
    record = {
        "command": " ".join(sys.argv),
        "largest_logit": float(logits[1].abs().max()),
        "max_abs_difference": differences,
        "versions": {"everlong": everlong.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
