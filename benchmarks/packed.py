"""How much faster streams are read in one forward than one after the other, a token each.

    python benchmarks/packed.py --out benchmarks/results/packed.json

Each of `--streams` forks of one stream reads a token of its own: all of them one after the other, then all packed into
one row, in turns. CPU seconds of one thread, medians over `--repeats` and the quartiles of the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import everlong
from everlong.engine import batch
from everlong.engine.stream import StreamPiece, TokenStream
from everlong.machine import circumstances

METHODS = {
    "sinks": (everlong.Sinks(sinks=4, window=1020), 1),
    "blocks": (everlong.Blocks(recall="layer"), 4),
}
"""Each with how many times `--tokens` it has read before."""


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of `work`."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def one_by_one(streams: list[TokenStream], ids: Iterable[torch.Tensor]) -> None:
    """Let each stream read its token by itself."""
    for stream, token in zip(streams, ids, strict=True):
        stream.feed(token, answering=True)


def measured(loaded: Any, name: str, tokens: int, count: int, repeats: int) -> dict[str, Any]:
    """The row of a method."""
    method, times = METHODS[name]
    draw = torch.Generator().manual_seed(0)
    vocabulary = loaded.model.config.vocab_size
    alone, packed = [], []
    with TokenStream(loaded, method, 512) as first:
        first.feed(torch.randint(vocabulary, (times * tokens,), generator=draw))
        streams = [first.fork() for _ in range(count)]
        for own, other in torch.randint(vocabulary, (repeats + 1, 2, count, 1), generator=draw):
            alone.append(cpu_seconds(partial(one_by_one, streams, own)))
            pieces = [StreamPiece(s, i, answering=True) for s, i in zip(streams, other, strict=True)]
            packed.append(cpu_seconds(partial(batch.read, pieces)))
        for stream in streams:
            stream.close()
    ratios = [a / b for a, b in zip(alone[1:], packed[1:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "method": str(method),
        "streams": count,
        "read_before": times * tokens,
        "alone_ms": round(1000 * statistics.median(alone[1:]), 1),
        "packed_ms": round(1000 * statistics.median(packed[1:]), 1),
        "ratio": round(middle, 2),
        "ratio_quartiles": [round(low, 2), round(high, 2)],
    }


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=1500, help="tokens read before, times 4 for blocks")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load(args.model, dtype=args.dtype)
    rows = []
    for name in METHODS:
        rows.append(measured(loaded, name, args.tokens, args.streams, args.repeats))
        print(rows[-1], flush=True)
    if args.out:
        record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "rows": rows}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
