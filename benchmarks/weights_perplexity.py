r"""Perplexity with packed weights over that with full ones, on the same tokens of a book, paired.

    python benchmarks/weights_perplexity.py --book ../shared/data/books/moby-dick_2701.txt \
        --out benchmarks/results/weights_perplexity.json

bfloat16, sinks with a window of 1020; figures are over tokens 1024 .. 32767, with a standard error over pieces of 512.
Chunks of 512 tokens are products with unpacked tiles, of 16 (`--chunk 16`) those of the kernels that decoding uses.
The record is written after each form.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from paired import standard_error

import everlong
from everlong.machine import circumstances
from everlong.ops.native import description

FORMS = ("full", "int8", "int4")


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--first", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--weights", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    nll: dict[str, torch.Tensor] = {}
    for form in args.weights or FORMS:
        loaded = everlong.load(args.model, args.dtype, weights=form)
        ids = loaded.tokenizer(args.book.read_text(encoding="utf-8"))["input_ids"][: args.tokens]
        begun = time.process_time()
        with everlong.Session(loaded, everlong.Sinks(sinks=4, window=1020), chunk=args.chunk) as session:
            nll[form] = -session.score(ids)[args.first :].double()
        rate = len(ids) / (time.process_time() - begun)
        print(f"{form}: {math.exp(nll[form].mean()):.4f}, {rate:.0f} tokens/CPU s", file=sys.stderr, flush=True)
        args.out.write_text(json.dumps(_record(args, nll), indent=1) + "\n")
    print(args.out.read_text(encoding="utf-8"))


def _record(args: argparse.Namespace, nll: dict[str, torch.Tensor]) -> dict[str, object]:
    """What was measured so far: perplexities, and by how many percent each is above that of the first form."""
    base = next(iter(nll.values()))
    above = {form: [100 * math.expm1((x - base).mean()), 100 * standard_error(x - base)] for form, x in nll.items()}
    return {
        "command": " ".join(sys.argv),
        "model": Path(args.model).name,
        "dtype": args.dtype,
        "book": args.book.name,
        "chunk": args.chunk,
        "tokens": [args.first, args.tokens],
        "perplexity": {form: math.exp(x.mean()) for form, x in nll.items()},
        "percent_above_and_error": above,
        "kernels": description(),
        "circumstances": circumstances(),
    }


if __name__ == "__main__":
    main()
