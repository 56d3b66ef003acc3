"""What one decoded token takes: everlong's own work, and that of the default model beside plain transformers.

    python benchmarks/decoding.py framework --against OLDER/CHECKOUT --out benchmarks/results/framework.json
    python benchmarks/decoding.py model --dtype bfloat16 --weights int4 --out benchmarks/results/decoding.json

`framework`: 30 layers so small that their products take no time, so that what is left is Python's, torch's and
everlong's work around them; in processes of this checkout and of the older one in turns. `model`: SmolLM2, the cases in
turns in one process. CPU milliseconds of one thread: median and quartiles over the tokens of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import everlong
from everlong.machine import circumstances

WARM = 8
METHODS = {
    "sinks": everlong.Sinks(window=128, sinks=4),
    "blocks": everlong.Blocks(window=128, sinks=4, block=16, top_k=8, exec_chunk=64, recall="layer"),
}


def timed(token: Callable[[int], Any], count: int) -> list[float]:
    """CPU milliseconds of each of `count` tokens, after some that are not counted."""
    found = []
    for n in range(WARM + count):
        begun = time.thread_time()
        token(n)
        found.append(1e3 * (time.thread_time() - begun))
    return found[WARM:]


def row(times: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4)
    return {"ms": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)], "tokens": len(times)}


def stock(model: Any, ids: torch.Tensor) -> Callable[[int], Any]:
    """What reads one token more with plain transformers behind `ids`."""
    cache = transformers.DynamicCache()
    with torch.inference_mode():
        model(ids[None], past_key_values=cache)

    @torch.inference_mode()
    def token(n: int) -> None:
        model(torch.tensor([[n]]), past_key_values=cache)

    return token


def small(count: int) -> dict[str, list[float]]:
    """The times of a model of 30 small layers."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = transformers.LlamaConfig(
        vocab_size=97, num_hidden_layers=30, max_position_embeddings=4096, **shape, **ends
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(97, (600,))
    found = {}
    for name, method in METHODS.items():
        with everlong.Session(model, method, chunk=64) as session:
            session.feed(ids)
            found[name] = timed(lambda n, one=session: one.feed([n], answering=True), count)
    return found | {"transformers": timed(stock(model, ids[:128]), count)}


def framework(given: argparse.Namespace) -> dict[str, Any]:
    """The rows of both checkouts, and how many times as fast this one is."""
    places = {"now": Path(everlong.__file__).parents[1], "before": given.against / "src"}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in places}
    for _ in range(given.rounds):
        for name, place in places.items():
            command = [sys.executable, __file__, "small", "--tokens", str(given.tokens)]
            environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            for case, found in json.loads(ran.stdout.splitlines()[-1]).items():
                times[name].setdefault(case, []).extend(found)
    rows = {name: {case: row(found) for case, found in cases.items()} for name, cases in times.items()}
    ratios = {case: round(rows["now"][case]["ms"] / rows["before"][case]["ms"], 3) for case in METHODS}
    return rows | {"now over before": ratios}


def model(given: argparse.Namespace) -> dict[str, Any]:
    """The rows of SmolLM2: contexts of 128 and 2,048 tokens attended to, and blocks far behind their window."""
    loaded = everlong.load("smollm2", dtype=given.dtype, weights=given.weights)
    ids = torch.randint(1000, 40000, (given.far,), generator=torch.Generator().manual_seed(0))
    blocks = everlong.Blocks(recall="layer")
    plan = {"sinks at 128": (everlong.Sinks(window=1020), 128), "dense at 2048": (everlong.Dense(), 2048)}
    plan |= {"blocks at 2048": (blocks, 2048), f"blocks at {given.far}": (blocks, given.far)}
    cases: dict[str, Callable[[int], Any]] = {}
    for name, (method, tokens) in plan.items():
        session = everlong.Session(loaded, method)
        session.feed(ids[:tokens])
        cases[name] = lambda n, one=session: one.feed([n], answering=True)
    for tokens in (128, 2048):
        cases[f"transformers at {tokens}"] = stock(loaded.model, ids[:tokens])
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(given.rounds):
        for name, token in cases.items():
            times[name] += timed(token, given.tokens)
    return {name: row(found) for name, found in times.items()}


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("framework", "model", "small"))
    parser.add_argument("--against", type=Path, help="an older checkout, with framework")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weights", default="full")
    parser.add_argument("--far", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "small":
        print(json.dumps(small(given.tokens)))
        return
    if given.what == "framework" and given.against is None:
        parser.error("framework: --against FOLDER is missing: an older checkout to compare with")
    found = framework(given) if given.what == "framework" else model(given)
    found |= {"dtype": given.dtype, "weights": given.weights} if given.what == "model" else {}
    print(json.dumps(found, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(found | {"machine": circumstances()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
