r"""Perplexity of dense, window and sinks on the same tokens of a book, paired.

    python benchmarks/perplexity.py --book ../shared/data/books/moby-dick_2701.txt \
        --out benchmarks/results/perplexity.json

The cache of window and sinks holds 1024 tokens; figures are over tokens 1024 .. 7999.
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

import everlong

METHODS = (everlong.Dense(), everlong.Sinks(sinks=4, window=1020), everlong.Window(window=1024))


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=8000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2")
    ids = loaded.tokenizer(args.book.read_text(encoding="utf-8"))["input_ids"][: args.tokens]
    nll = {}
    for method in METHODS:
        with everlong.Session(loaded, method) as session:
            nll[method.name] = -session.score(ids)[args.first :].double()
        print(f"{method}: perplexity {math.exp(nll[method.name].mean()):.4f}", file=sys.stderr)
    record = {
        "command": " ".join(sys.argv),
        "tokens": [args.first, args.tokens],
        "perplexity": {name: math.exp(x.mean()) for name, x in nll.items()},
        "ratio_to_dense": {name: math.exp((x - nll["dense"]).mean()) for name, x in nll.items()},
        "versions": {"everlong": everlong.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
