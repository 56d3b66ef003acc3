r"""Perplexity of dense, window and sinks on the same tokens of a book, paired.

    python benchmarks/perplexity.py --book ../shared/data/books/moby-dick_2701.txt \
        --out benchmarks/results/perplexity.json

The cache of window and sinks holds 1024 tokens; figures are over tokens 1024 .. 7999. Other methods by name and
fields: --method sinks:sinks=64,window=1024 --method blocks:positions=ordered ...; every pair is compared, with a
standard error over pieces of 512 tokens. The record is written after each method.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import torch
from paired import standard_error

import everlong
from everlong.config import parse_options
from everlong.methods import make_method

METHODS = ("dense", "sinks:sinks=4,window=1020", "window:window=1024")


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--method", action="append", default=[], dest="methods")
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2", dtype="float32")
    ids = loaded.tokenizer(args.book.read_text(encoding="utf-8"))["input_ids"][: args.tokens]
    nll = {}
    for spec in args.methods or METHODS:
        name, _, fields = spec.partition(":")
        method = make_method(name, parse_options(fields.split(",") if fields else []))
        start = time.perf_counter()
        with everlong.Session(loaded, method) as session:
            nll[spec] = -session.score(ids)[args.first :].double()
        rate = len(ids) / (time.perf_counter() - start)
        print(f"{spec}: perplexity {math.exp(nll[spec].mean()):.4f}, {rate:.0f} tokens/s", file=sys.stderr, flush=True)
        args.out.write_text(json.dumps(_record(args, nll), indent=1) + "\n")
    print(args.out.read_text(encoding="utf-8"))


def _record(args: argparse.Namespace, nll: dict[str, torch.Tensor]) -> dict[str, object]:
    """What was measured so far; `pairs[a][b]` is the perplexity of a over that of b, and its standard error."""
    pairs = {
        a: {b: [math.exp((x - y).mean()), standard_error(x - y)] for b, y in nll.items() if b != a}
        for a, x in nll.items()
    }
    return {
        "command": " ".join(sys.argv),
        "book": args.book.name,
        "tokens": [args.first, args.tokens],
        "perplexity": {name: math.exp(x.mean()) for name, x in nll.items()},
        "pairs": pairs,
        "versions": {"everlong": everlong.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
