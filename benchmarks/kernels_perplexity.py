r"""Perplexity with the kernels in C, in bfloat16 and in float32, over that of torch alone in float32, paired.

    python benchmarks/kernels_perplexity.py --book ../shared/data/books/moby-dick_2701.txt \
        --out benchmarks/results/kernels_perplexity.json

The default model with sinks and with blocks; figures are over tokens 1024 .. 8191, with a standard error over pieces of
512. Chunks of 512 tokens are read by the kernel for many queries, of 1 (`--chunk 1`) by what decodes. Each case is a
process of its own, since what is used is decided once for a process (EVERLONG_NATIVE).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from paired import standard_error

import everlong
from everlong.machine import circumstances

METHODS = {"sinks": everlong.Sinks(), "blocks": everlong.Blocks(window=512, top_k=8, recall="layer")}
CASES = {"torch float32": ("float32", "0"), "float32": ("float32", "1"), "bfloat16": ("bfloat16", "1")}


def scored(args: argparse.Namespace) -> list[float]:
    """Nats of each token from the first that counts on."""
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2", dtype=args.dtype)
    ids = loaded.tokenizer(args.book.read_text(encoding="utf-8"))["input_ids"][: args.tokens]
    with everlong.Session(loaded, METHODS[args.method], chunk=args.chunk) as session:
        return (-session.score(ids)[args.first :].double()).tolist()


def case(args: argparse.Namespace, method: str, name: str) -> torch.Tensor:
    """The nats of a case, from a process of its own."""
    dtype, native = CASES[name]
    own = [
        "--book",
        str(args.book),
        "--tokens",
        str(args.tokens),
        "--first",
        str(args.first),
        "--chunk",
        str(args.chunk),
    ]
    command = [sys.executable, __file__, *own, "--method", method, "--dtype", dtype]
    environment = os.environ | {"EVERLONG_NATIVE": native}
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return torch.tensor(json.loads(ran.stdout.splitlines()[-1]), dtype=torch.float64)


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--first", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--method", choices=METHODS, help="one process of a case")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.method is not None:
        print(json.dumps(scored(args)))
        return
    found: dict[str, object] = {}
    for method, settings in METHODS.items():
        nll = {name: case(args, method, name) for name in CASES}
        base = nll["torch float32"]
        above = {n: [100 * math.expm1((x - base).mean()), 100 * standard_error(x - base)] for n, x in nll.items()}
        found[method] = {
            "settings": str(settings),
            "perplexity": {name: math.exp(x.mean()) for name, x in nll.items()},
            "percent_above_and_error": above,
        }
        print(json.dumps(found, indent=1), flush=True)
    circumstance = {"command": " ".join(sys.argv), "book": args.book.name, "tokens": [args.first, args.tokens]}
    record = circumstance | {"chunk": args.chunk, "circumstances": circumstances()} | found
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
