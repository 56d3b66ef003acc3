r"""A domain learnt with LoRA beside a memory: one book, its last part held out, read before and after.

    python benchmarks/domain.py --book ../shared/data/pg19/10356_travels-in-morocco-vol2.txt --work runs/domain \
        --out benchmarks/results/domain.json

Trains recipes/train/smollm2-domain.yaml on all of the book but its last tenth, then reads TOKENS tokens from the start
of that tenth: those from FIRST on count, the others are read before them. `sinks` is the method with the newest 252
tokens and 4 sinks; `window` what training has (128 to 256 tokens, no sinks), without a memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from paired import nll_of, ratio

import everlong
from everlong.machine import circumstances
from everlong.train.data.corpus import book_text
from everlong.train.recipe import read_recipe
from everlong.train.run import train

RECIPE = Path(__file__).parent.parent / "recipes" / "train" / "smollm2-domain.yaml"
FIRST, TOKENS, CHUNK = 512, 3072, 512


def main() -> None:
    """Split, train, read, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = book_text(args.book)
    cut = text.index("\n\n", len(text) * 9 // 10)
    (args.work / "texts").mkdir(parents=True, exist_ok=True)
    (args.work / "texts" / "book.txt").write_text(text[:cut], encoding="utf-8")
    os.environ["DOMAIN"] = str((args.work / "texts").resolve())
    recipe = read_recipe(RECIPE)
    run = args.work / "run"
    began = time.process_time()
    if not (run / "result.json").is_file():
        train(recipe, run, (run / "recipe.yaml").is_file(), lambda line: print(line, file=sys.stderr, flush=True))
    spent = time.process_time() - began
    method: Any = recipe.method_of()
    off, reset = (dataclasses.replace(method, memory=way) for way in method.controls()[1::2])
    found: dict[str, torch.Tensor] = {}
    before: Any = everlong.load(recipe.model or "", dtype="float32")
    sinks = everlong.Sinks(sinks=4, window=252)
    for name, how in (("before, sinks", sinks), ("before, window", off)):
        found[name] = nll_of(before, how, text[cut:], FIRST, TOKENS, CHUNK)
    after: Any = everlong.load(run / "model", dtype="float32")
    ways = {"after": method, "after, memory off": off, f"after, {reset.memory}": reset, "after, sinks": sinks}
    for name, how in ways.items():
        found[name] = nll_of(after, how, text[cut:], FIRST, TOKENS, CHUNK)
        print(name, round(math.exp(found[name].mean()), 3), flush=True)
    record = {
        "sinks, after over before": ratio(found["after, sinks"] - found["before, sinks"]),
        "command": " ".join(sys.argv),
        "circumstances": circumstances(),
        "training_cpu_s": round(spent),
        "trained_tokens": sum(stage.steps * stage.batch * stage.length for stage in recipe.stages),
        "tokens": len(found["after"]),
        "perplexity": {name: round(math.exp(x.mean()), 3) for name, x in found.items()},
        "after_over": {name: ratio(found["after"] - x) for name, x in found.items() if name != "after"},
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(record["perplexity"])


if __name__ == "__main__":
    main()
