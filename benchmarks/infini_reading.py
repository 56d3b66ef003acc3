"""CPU seconds in which everlong/infini-passkey reads a million tokens, and what reading whole segments at once brings.

    python benchmarks/infini_reading.py --out benchmarks/results/infini_reading.json

One thread, text in, tokenising included. The second part reads 128K tokens in turn with the window's segments all at
once and column by column, as the methods without segments do it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import everlong
from everlong.machine import circumstances
from everlong.methods.recurrent.memory import RecurrentMemory
from everlong.text.haystack import NOISE, OPENING

MILLION, SHORT, REPEATS = 41_700, 5_240, 5
"""Repetitions of the five sentences (24 tokens): a million tokens, 128K; times of the comparison."""


@contextmanager
def by_columns() -> Iterator[None]:
    """The window as methods without segments read it."""
    fast: Any = RecurrentMemory._near

    def slow(self: Any, step: Any, *call: Any) -> Any:
        return step.near(*call)

    RecurrentMemory._near = slow
    try:
        yield
    finally:
        RecurrentMemory._near = fast


def read(loaded: Any, repetitions: int, chunk: int) -> dict[str, Any]:
    """Tokens, CPU seconds and bytes of one stream."""
    with everlong.Session(loaded, loaded.method, chunk=chunk) as session:
        start = time.process_time()
        session.feed(OPENING + NOISE * repetitions)
        seconds, report = time.process_time() - start, session.report()
    tokens = report.seen_tokens
    return {"chunk": chunk, "tokens": tokens, "cpu_s": round(seconds, 2), "device_bytes": report.bytes["device"]}


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("everlong/infini-passkey")
    fast, slow = [], []
    for _ in range(REPEATS):
        fast.append(read(loaded, SHORT, 2048)["cpu_s"])
        with by_columns():
            slow.append(read(loaded, SHORT, 2048)["cpu_s"])
    ratio = {"at_once_cpu_s": fast, "by_columns_cpu_s": slow}
    ratio["ratio"] = round(statistics.median(slow) / statistics.median(fast), 3)
    print(ratio, flush=True)
    rows = [read(loaded, MILLION, chunk) for chunk in (2048, 2048, 2048, 4096)]
    for row in rows:
        print(row, flush=True)
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "million": rows, "window": ratio}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
