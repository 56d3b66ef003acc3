r"""What a converted checkpoint loses and gains: perplexity before and after continued training, memory on and off.

    everlong train recipes/train/smollm2-infini.yaml --out runs/smollm2-infini
    python benchmarks/converted_perplexity.py --data ../shared/data --converted runs/smollm2-infini/model \
        --out benchmarks/results/converted_perplexity.json

Each text is read from its beginning; tokens past FIRST count, where the memory holds something. "Off" is the same
window alone, and dense sees all. Training on books makes any model better on books: what the memory holds does is
the ratio of on to zeroed: off takes the gates away as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from paired import nll_of, ratio, trained_on

import everlong
from everlong.machine import circumstances
from everlong.train.data.corpus import book_text

TEXTS = {"pg19": "pg19/*.txt", "books": "books/*.txt", "math": "math/*.tex"}
FIRST, CHUNK = 512, 512
PAIRS = (
    ("before", "before, off"),
    ("after", "after, off"),
    ("after", "after, zeroed"),
    ("after", "before, off"),
    ("after, off", "before, off"),
    ("before, dense", "before, off"),
)


def main() -> None:
    """Read, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--converted", type=Path, required=True, help="the folder model/ of the run")
    parser.add_argument("--model", default="smollm2", help="what it was converted from")
    parser.add_argument("--files", type=int, default=2, help="so many of each group of texts")
    parser.add_argument("--tokens", type=int, default=4096, help="read of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    texts = {
        group: [file for file in sorted(args.data.glob(glob)) if not trained_on(file, args.data)][: args.files]
        for group, glob in TEXTS.items()
    }
    after = everlong.load(str(args.converted), dtype="float32")
    before = everlong.load(args.model, dtype="float32")
    given: Any = after.method
    untrained = dataclasses.replace(given, beta=type(given)().beta)
    ways = {
        "before, dense": (before, everlong.Dense()),
        "before, off": (before, dataclasses.replace(untrained, memory="off")),
        "before": (before, untrained),
        "after, off": (after, dataclasses.replace(given, memory="off")),
        "after, zeroed": (after, dataclasses.replace(given, memory="zeroed")),
        "after": (after, given),
    }
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, (loaded, method) in ways.items():
        found[name] = {
            group: torch.cat([nll_of(loaded, method, book_text(file), FIRST, args.tokens, CHUNK) for file in files])
            for group, files in texts.items()
        }
        print(name, {group: round(math.exp(x.mean()), 3) for group, x in found[name].items()}, flush=True)
    record = {
        "command": " ".join(sys.argv),
        "circumstances": circumstances(),
        "texts": {group: [file.name for file in files] for group, files in texts.items()},
        "methods": {name: str(method) for name, (_, method) in ways.items()},
        "tokens": {group: len(x) for group, x in found["after"].items()},
        "perplexity": {n: {g: round(math.exp(x.mean()), 3) for g, x in row.items()} for n, row in found.items()},
        "ratios": {
            f"{one} / {other}": {group: ratio(found[one][group] - found[other][group]) for group in TEXTS}
            for one, other in PAIRS
        },
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
