r"""Trained memories at equal budget: the same model, data, steps and exact window, another method; perplexity of books.

    python benchmarks/trained_perplexity.py --data ../shared/data --work runs/books \
        --out benchmarks/results/trained_perplexity.json

Trains recipes/train/books.yaml once for each method below (goes on where it was stopped), then reads test books and
LaTeX from their beginning and compares the log-probabilities of tokens past FIRST, paired by piece. A token sees at
most 256 tokens exactly with every method. Memory is counted as the paper's Table 2 does: numbers kept for what is no
longer seen in full (Infini: M and z; Transformer-XL: hidden states; the infinity-former: B), and compression against
the hidden states of all that was read. A Transformer-XL whose context is as long (each layer looks one memory further,
so that L layers of N / L states reach N tokens back) would keep N x width numbers. `on_over` compares the same weights
with the memory and without.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from paired import nll_of, ratio, trained_on

import everlong
from everlong.machine import circumstances
from everlong.methods import make_method
from everlong.train.data.corpus import book_text
from everlong.train.recipe import read_recipe
from everlong.train.run import train

RECIPE = Path(__file__).parent.parent / "recipes" / "train" / "books.yaml"
METHODS: dict[str, dict[str, Any]] = {
    "window": {"name": "transformer_xl", "segment": 256, "memory": "off"},
    "transformer_xl, cache": {"name": "transformer_xl", "segment": 128},
    "transformer_xl, faithful": {"name": "transformer_xl", "segment": 128, "variant": "faithful"},
    "infinity_former": {"name": "infinity_former", "segment": 128, "local": "xl", "basis": 64, "points": 256},
    "infini, linear": {"name": "infini", "segment": 128, "local": "xl", "beta": 0.0},
    "infini, delta": {"name": "infini", "segment": 128, "local": "xl", "beta": 0.0, "update": "delta"},
    "delta, decay": {"name": "delta", "segment": 128, "degree": 1, "decay": True},
    "delta, decay, no projections": {
        "name": "delta",
        "segment": 128,
        "degree": 1,
        "decay": True,
        "projections": "none",
    },
}
LLAMA: dict[str, dict[str, int]] = {"delta, decay": {"intermediate_size": 164}}
"""Of the model, so that all have as many parameters: delta's projections take what the others have in their MLPs."""
TEXTS = ("pg19/*.txt", "books/*.txt", "math/*.tex")
FIRST, LAST, CHUNK = 2048, 16384, 2048


def content_of(name: str) -> dict[str, Any]:
    """What the recipe file of a method says."""
    content = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    content["scratch"]["llama"] |= LLAMA.get(name, {})
    return content | {"method": METHODS[name]}


def recipe_of(name: str, work: Path) -> Path:
    """The recipe file of a method."""
    content = content_of(name)
    path = work / f"{folder_of(name)}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def folder_of(name: str) -> str:
    """A name without spaces and commas."""
    return name.replace(", ", "-")


def trained(name: str, work: Path) -> dict[str, Any]:
    """The result.json of a method's run, which is done or gone on with."""
    out = work / folder_of(name)
    if not (out / "result.json").is_file():
        recipe = read_recipe(recipe_of(name, work))
        print(f"training {name} in {out}", file=sys.stderr)
        train(recipe, out, (out / "recipe.yaml").is_file(), lambda line: print(f"{name}: {line}", file=sys.stderr))
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


def scored(name: str, run: Path, data: Path) -> dict[str, dict[str, torch.Tensor]]:
    """By way of reading and group of texts: -log p of all tokens, by the model that lies in a run's folder.

    Ways are on; off, the window alone; zeroed, Infini's gates with nothing behind them; reset, the memory emptied
    every so many tokens. Kept in the run's folder, and read from there as far as they are done.
    """
    kept = run / "scores.pt"
    found: dict[str, dict[str, torch.Tensor]] = torch.load(kept, weights_only=True) if kept.is_file() else {}
    loaded: Any = everlong.load(run / "model", dtype="float32")
    ways = {"on": loaded.method}
    if loaded.method.memory != "off":
        controls = loaded.method.controls()[1:]
        ways |= {way: dataclasses.replace(loaded.method, memory=way) for way in controls}
    for way in [way for way in ways if way not in found]:
        found[way] = {}
        for group in TEXTS:
            texts = [book_text(file) for file in sorted(data.glob(group)) if not trained_on(file, data)]
            found[way][group] = torch.cat([nll_of(loaded, ways[way], text, FIRST, LAST, CHUNK).cpu() for text in texts])
            print(f"{name}: read {group}, memory {way}", file=sys.stderr)
        torch.save(found, kept)
    return found


def memory_numbers(name: str, config: Any) -> tuple[int, str]:
    """(numbers kept for what is no longer seen in full, over all layers; what they are)."""
    layers, width, D = config.num_hidden_layers, config.hidden_size, config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads
    if name.startswith("infini,"):
        return layers * heads * D * (D + 1), "M and z"
    if name == "infinity_former":
        return layers * METHODS[name]["basis"] * width, "B"
    if name.startswith("delta,"):
        return layers * heads * D * D, "M"
    if name.startswith("transformer_xl"):
        return layers * METHODS[name]["segment"] * width, "hidden states"
    return 0, "none"


def main() -> None:
    """Train, measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="train and score this method and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["EVERLONG_DATA"] = str(args.data.resolve())  # the recipe's books
    if args.only:
        trained(args.only, args.work)
        scored(args.only, args.work / folder_of(args.only), args.data)
        return
    rows: dict[str, Any] = {}
    nlls: dict[str, dict[str, torch.Tensor]] = {}
    for name, given in METHODS.items():
        result, found = trained(name, args.work), scored(name, args.work / folder_of(name), args.data)
        loaded = everlong.load(args.work / folder_of(name) / "model", dtype="float32")
        nlls[name] = found["on"]
        numbers, what = memory_numbers(name, loaded.model.config)
        width, layers = loaded.model.config.hidden_size, loaded.model.config.num_hidden_layers
        rows[name] = {
            "method": str(make_method(given["name"], {k: v for k, v in given.items() if k != "name"})),
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "perplexity": {g: round(math.exp(x.mean()), 3) for g, x in found["on"].items()},
            "tokens": {g: len(x) for g, x in found["on"].items()},
            "memory_numbers": numbers,
            "memory": what,
            "memory_bytes": 4 * numbers,
            "compression": round(LAST * width * layers / numbers, 1) if numbers else None,
            "times_smaller_than_transformer_xl": round(LAST * width / numbers, 1) if numbers else None,
            "on_over": {
                way: {g: ratio(x - found[way][g]) for g, x in found["on"].items()} for way in found if way != "on"
            },
            "held_out": result["ablation"],
            "gates": result["gates"],
        }
        if name.startswith("transformer_xl"):
            del rows[name]["times_smaller_than_transformer_xl"]
        print(name, rows[name]["perplexity"], flush=True)
    pairs = {
        f"{one} / {other}": {group: ratio(nlls[one][group] - nlls[other][group]) for group in TEXTS}
        for one in METHODS
        for other in ("window", "transformer_xl, faithful")
        if one != other
    }
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "rows": rows, "ratios": pairs}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
