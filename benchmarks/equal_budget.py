r"""Trained memories at equal tokens and at equal CPU time, with the error of seeds: a small model, perplexity of books.

    python benchmarks/equal_budget.py --data ../shared/data --work runs/equal \
        --out benchmarks/results/equal_budget.json

The model is smaller than that of trained_perplexity.py (3 layers, 96 wide, 2,048 pieces of words made from the first
BOOKS training books), so that seeds can be paid for. All methods have as many parameters, to one in a hundred: what
delta's projections and Transformer-XL's positions take, the others have in their MLPs. A token sees 64 to 128 tokens
exactly. `tokens`: each method --steps steps of 4,096 tokens, from each seed. `time`: each as many steps as fit into the
CPU time that the faithful Transformer-XL took for its own from the same seed, at the seconds a step of the method in
the first part. --seeds go to the methods of --best and to the faithful Transformer-XL; the others have the first alone.

Test texts are read from their beginning, and tokens FIRST to LAST compared. `on_over`: the same weights with the memory
on over the same emptied every 128 tokens (reset), paired. Ratios of two methods are the mean over seeds with the
standard error of that mean; `texts` beside it is the error of the texts within a seed. Trainings that are done are not
done again, so that seeds may be trained side by side by several calls (--seeds 2), each with an --out of its own, and a
last call with all of them sums up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from paired import nll_of, ratio, standard_error, trained_on

import everlong
from everlong.machine import circumstances
from everlong.train.data.corpus import book_files, book_text
from everlong.train.recipe import read_recipe
from everlong.train.run import train

RECIPE = Path(__file__).parent.parent / "recipes" / "train" / "books.yaml"
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "transformer_xl, faithful": ({"name": "transformer_xl", "segment": 64, "variant": "faithful"}, 360),
    "delta, decay": ({"name": "delta", "segment": 64, "degree": 1, "decay": True}, 256),
    "delta, decay, no projections": (
        {"name": "delta", "segment": 64, "degree": 1, "decay": True, "projections": "none"},
        384,
    ),
    "infini, delta": ({"name": "infini", "segment": 64, "local": "xl", "beta": 0.0, "update": "delta"}, 392),
    "window": ({"name": "transformer_xl", "segment": 128, "memory": "off"}, 392),
}
"""Each with the width of the model's MLPs."""
REFERENCE = "transformer_xl, faithful"
BOOKS, LENGTH, BATCH = 40, 1024, 4
TEXTS = {"pg19": "pg19/*.txt", "novels": "books/*.txt", "latex": "math/*.tex"}
FIRST, LAST, CHUNK = 1024, 4096, 2048


def content_of(name: str, seed: int, steps: int, work: Path) -> dict[str, Any]:
    """What the recipe file of a training says."""
    content = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    method, width = METHODS[name]
    content["scratch"] |= {"vocabulary": 2048, "books": str(work / "books")}
    llama = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}
    content["scratch"]["llama"] |= llama | {"intermediate_size": width}
    stage = {"steps": steps, "batch": BATCH, "length": LENGTH, "data": {"books": {"data": str(work / "books")}}}
    content["optimiser"] |= {"warmup_steps": 30}
    content |= {"method": method, "stages": [stage], "seed": seed, "checkpoint_every": 10**6, "held_out": 1}
    return content | {"cache": str(work / "tokenised")}


def trained(name: str, seed: int, steps: int, part: str, work: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a training that is done, and its steps, tokens and CPU seconds."""
    run = work / part / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    said = run / "spent.json"
    if not said.is_file():
        shutil.rmtree(run, ignore_errors=True)
        run.parent.mkdir(parents=True, exist_ok=True)
        recipe = run.with_suffix(".yaml")
        recipe.write_text(yaml.safe_dump(content_of(name, seed, steps, work)), encoding="utf-8")
        ends = [time.process_time()]

        def tell(line: str) -> None:
            if line.startswith("step "):
                ends.append(time.process_time())
            print(f"{part}, {name}, {seed}: {line}", file=sys.stderr, flush=True)

        train(read_recipe(recipe), run, False, tell)
        # from the end of the first ten steps on, so that making the tokenizer and the like do not count
        logged = ends[1:]
        cpu_s = (logged[-1] - logged[0]) * steps / (steps - 10)
        said.write_text(json.dumps({"steps": steps, "tokens": steps * BATCH * LENGTH, "cpu_s": round(cpu_s, 1)}))
    return run, json.loads(said.read_text(encoding="utf-8"))


def scored(run: Path, data: Path) -> dict[str, dict[str, torch.Tensor]]:
    """By way of reading and group of texts: -log p of all tokens. Kept in the run's folder."""
    kept = run / "scores.pt"
    found: dict[str, dict[str, torch.Tensor]] = torch.load(kept, weights_only=True) if kept.is_file() else {}
    loaded: Any = everlong.load(run / "model", dtype="float32")
    ways = {"on": loaded.method}
    if loaded.method.memory != "off":
        resets = [way for way in loaded.method.controls() if way.startswith("reset")]
        ways |= {way: dataclasses.replace(loaded.method, memory=way) for way in resets}
    for way in [way for way in ways if way not in found]:
        found[way] = {}
        for group, pattern in TEXTS.items():
            texts = [book_text(file) for file in sorted(data.glob(pattern)) if not trained_on(file, data)]
            found[way][group] = torch.cat([nll_of(loaded, ways[way], text, FIRST, LAST, CHUNK).cpu() for text in texts])
    torch.save(found, kept)
    return found


def row(run: Path, spent: dict[str, Any], data: Path) -> dict[str, Any]:
    """What a training gave."""
    found = scored(run, data)
    loaded: Any = everlong.load(run / "model", dtype="float32")
    return {
        **spent,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "perplexity": {group: round(math.exp(x.mean()), 2) for group, x in found["on"].items()},
        "tokens_read": {group: len(x) for group, x in found["on"].items()},
        "on_over": {
            way: {group: ratio(x - found[way][group]) for group, x in found["on"].items()}
            for way in found
            if way != "on"
        },
    }


def over(one: list[Path], other: list[Path], data: Path) -> dict[str, dict[str, Any]]:
    """Perplexity of a method over that of another, by group: geometric mean over seeds, with errors."""
    found = {}
    for group in TEXTS:
        pairs = zip(one, other, strict=True)
        differences = [scored(a, data)["on"][group] - scored(b, data)["on"][group] for a, b in pairs]
        means = [float(x.mean()) for x in differences]
        mean = math.exp(statistics.mean(means))
        seeds = mean * statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
        texts = mean * statistics.mean(map(standard_error, differences))
        found[group] = {"ratio": mean, "error_of_seeds": seeds, "texts": texts, "each": [math.exp(m) for m in means]}
    return found


def main() -> None:
    """Train, read, print and write the record, anew whenever a training is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=lambda x: Path(x).resolve(), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=lambda x: [int(seed) for seed in x.split(",")], default=[1, 2, 3])
    parser.add_argument("--best", default="delta, decay;delta, decay, no projections")
    parser.add_argument("--methods", default=";".join(METHODS), help="the reference among them")
    parser.add_argument("--parts", default="tokens,time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    books = args.work / "books"
    books.mkdir(parents=True, exist_ok=True)
    for file in book_files(args.data / "train_books")[:BOOKS]:
        if not (books / file.name).is_file():
            shutil.copy2(file, books)
    os.environ["EVERLONG_DATA"] = str(args.data.resolve())
    wanted = [(name, seed) for seed in args.seeds for name in args.methods.split(";")]
    wanted = [(name, seed) for name, seed in wanted if seed == args.seeds[0] or name in seeded(args.best)]
    record: dict[str, Any] = {"command": " ".join(sys.argv), "circumstances": circumstances(), "parts": {}}
    spent: dict[tuple[str, int], dict[str, Any]] = {}
    for part in args.parts.split(","):
        runs: dict[str, list[Path]] = {}
        rows: dict[str, Any] = {}
        for name, seed in wanted:
            if part == "time" and name == REFERENCE:
                run, used = trained(name, seed, args.steps, "tokens", args.work)
            else:
                run, used = trained(name, seed, steps_of(part, name, seed, args.steps, spent), part, args.work)
            if part == "tokens":
                spent[name, seed] = used
            runs.setdefault(name, []).append(run)
            rows[f"{name}, seed {seed}"] = row(run, used, args.data)
            print(part, name, seed, rows[f"{name}, seed {seed}"]["perplexity"], used, flush=True)
            ratios = {name: over(r, runs[REFERENCE][: len(r)], args.data) for name, r in runs.items()}
            del ratios[REFERENCE]
            record["parts"][part] = {"rows": rows, "over_transformer_xl": ratios}
            args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def seeded(best: str) -> list[str]:
    """The methods that are trained from every seed."""
    return [REFERENCE, *best.split(";")]


def steps_of(part: str, name: str, seed: int, steps: int, spent: dict[tuple[str, int], dict[str, Any]]) -> int:
    """How many steps a training takes: all the same, or what the reference's CPU time is enough for."""
    if part == "tokens":
        return steps
    return 10 * round(steps * spent[REFERENCE, seed]["cpu_s"] / spent[name, seed]["cpu_s"] / 10)


if __name__ == "__main__":
    main()
