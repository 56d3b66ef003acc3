"""What the linear layers of a model take for one token (or a few), by form of weights and set of instructions.

    python benchmarks/linears.py --out benchmarks/results/linears.json

Random weights in the shapes of `--model`, each layer its own, so that they come from memory; the head apart. CPU time
of one thread, every case once in each of `--repeats` turns: medians and quartiles in ms. F.linear in float32 and
bfloat16 beside the kernels of native/linear.c with float32 and bfloat16 activations, and torch's product for 4 bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everlong.machine import circumstances
from everlong.ops import native, packed
from everlong.ops.quantise import quantise

MODELS = {
    "smollm2-135m": (
        30,
        [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)],
        49152,
    ),
    "qwen2.5-0.5b": (
        24,
        [(896, 896), (128, 896), (128, 896), (896, 896), (4864, 896), (4864, 896), (896, 4864)],
        151936,
    ),
}
"""Layers, the shapes [outputs, inputs] of one, and how many tokens the head knows."""

Work = Callable[[], Any]


def cases(shapes: list[tuple[int, int]], rows: int) -> dict[str, Work]:
    """By name, what makes one pass over weights of all shapes."""
    found: dict[str, Work] = {}
    weights = [torch.randn(o, i) * 0.05 for o, i in shapes]
    forms: dict[str, list[Tensor]] = {"float32": weights, "bfloat16": [w.bfloat16() for w in weights]}
    forms |= {form: [quantise(w, form) for w in weights] for form in ("q8", "q4")}
    for dtype in (torch.float32, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        inputs = [torch.randn(rows, i).to(dtype) for _, i in shapes]
        found[f"F.linear {short}"] = partial(_each, F.linear, inputs, forms[short])
        for form, held in forms.items():
            if form in ("float32", "bfloat16") and form != short:
                continue
            for level in native.extension().levels()[1:]:
                found[f"{form}, x {short}, {level}"] = partial(_native, level, form, shapes, inputs, held)
        if dtype == torch.bfloat16:
            ready = [packed.as_int4pack(w, i) for w, (_, i) in zip(forms["q4"], shapes, strict=True)]
            found["torch int4pack, x bfloat16"] = partial(_int4pack, shapes, inputs, ready)
    return found


def _each(product: Callable[[Tensor, Tensor], Tensor], inputs: list[Tensor], weights: list[Tensor]) -> None:
    for x, w in zip(inputs, weights, strict=True):
        product(x, w)


def _native(level: str, form: Any, shapes: list[tuple[int, int]], inputs: list[Tensor], weights: list[Tensor]) -> None:
    native.extension().set_level(level)
    for (outputs, _), x, w in zip(shapes, inputs, weights, strict=True):
        if form in ("q4", "q8"):
            packed.linear(x, w, form, outputs)
        else:
            packed.plain_linear(x, w)


def _int4pack(shapes: list[tuple[int, int]], inputs: list[Tensor], ready: list[tuple[Tensor, Tensor]]) -> None:
    for (outputs, _), x, w in zip(shapes, inputs, ready, strict=True):
        packed.int4pack_linear(x, *w, outputs, None)


def measured(found: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """First quartile, median and third quartile of each case, in ms."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeats + 1):
        for name, work in found.items():
            begun = time.process_time()
            work()
            if turn:
                times[name].append(1000 * (time.process_time() - begun))
    return {name: [round(q, 2) for q in statistics.quantiles(taken, n=4)] for name, taken in times.items()}


def call_us() -> float:
    """What a call of the extension takes by itself: the least of many, on the smallest weights."""
    w, x, out = quantise(torch.zeros(1, 1), "q4"), torch.zeros(1, 1), torch.empty(1, 1)
    given = (out.data_ptr(), x.data_ptr(), w.data_ptr(), 0, 1, 1, 1, 0, False, 1)
    call = native.extension().linear
    best = []
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(1000):
            call(*given)
        best.append(1000 * (time.perf_counter() - begun))
    return round(min(best), 2)


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", choices=MODELS, default=[])
    parser.add_argument("--rows", type=int, action="append", default=[])
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"command": " ".join(sys.argv), "circumstances": circumstances(), "call_us": call_us()}
    for model in args.model or ["smollm2-135m"]:
        layers, shapes, vocabulary = MODELS[model]
        for rows in args.rows or [1, 4]:
            record[f"{model}, {layers} layers, rows {rows}"] = measured(cases(shapes * layers, rows), args.repeats)
            head = [(vocabulary, shapes[0][1])]
            record[f"{model}, head, rows {rows}"] = measured(cases(head, rows), args.repeats)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
