r"""Sinks over a whole book: perplexity against a dense re-read at five places, and resident memory on the way.

    python benchmarks/far_quality.py --book ../shared/data/books/moby-dick_2701.txt \
        --out benchmarks/results/far_quality.json

The stream is read once with sinks 4 + 1020. At each of five places p a fresh dense session reads the tokens
p - 4096 .. p - 1 and both are scored on the same `--span` tokens from p on.
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

PIECE = 4096


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def read_with_sinks(loaded: object, ids: list[int], chunk: int) -> tuple[torch.Tensor, list[list[int]], float]:
    """(log-probabilities [tokens], [[tokens, resident bytes]], seconds) of one pass over `ids`."""
    session, start = everlong.Session(loaded, everlong.Sinks(), chunk=chunk), time.perf_counter()
    logprobs, resident = [], []
    for at in range(0, len(ids), PIECE):
        logprobs.append(session.score(ids[at : at + PIECE]))
        resident.append([session.report().seen_tokens, resident_bytes()])
        done = session.report().seen_tokens
        print(f"{done:,} / {len(ids):,} tokens, {done / (time.perf_counter() - start):.0f} tokens/s", file=sys.stderr)
    print(session.report(), file=sys.stderr)
    return torch.cat(logprobs), resident, time.perf_counter() - start


def dense_nll(loaded: object, ids: list[int], place: int, before: int, span: int, chunk: int) -> float:
    """Mean negative log-probability in nats of ids[place : place + span] after a dense read of `before` tokens."""
    session = everlong.Session(loaded, everlong.Dense(), chunk=chunk)
    session.feed(ids[place - before : place])
    return float(-session.score(ids[place : place + span]).mean())


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--before", type=int, default=4096)
    parser.add_argument("--span", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2")
    ids = loaded.tokenizer(args.book.read_text(encoding="utf-8"))["input_ids"][: args.tokens]
    logprobs, resident, seconds = read_with_sinks(loaded, ids, args.chunk)
    rows = []
    for n in range(1, 6):
        place = (len(ids) - args.span) * n // 5
        sinks = float(-logprobs[place : place + args.span].mean())
        dense = dense_nll(loaded, ids, place, args.before, args.span, args.chunk)
        rows.append(
            {"place": place, "sinks": math.exp(sinks), "dense": math.exp(dense), "ratio": math.exp(sinks - dense)}
        )
        print(rows[-1], file=sys.stderr)
    after_10k = [b for t, b in resident if t >= 10_000]
    record = {
        "command": " ".join(sys.argv),
        "tokens": len(ids),
        "perplexity": math.exp(-float(logprobs[1:].mean())),
        "seconds": seconds,
        "places": rows,
        "resident_bytes_growth_after_10k": after_10k[-1] - after_10k[0],
        "resident_bytes_max_after_10k": max(after_10k) - after_10k[0],
        "resident": resident,
        "versions": {"everlong": everlong.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "resident"}, indent=1))


if __name__ == "__main__":
    main()
