r"""Sinks over a whole book: perplexity against a dense re-read at five places, and resident memory on the way.

    python benchmarks/far_quality.py --book ../shared/data/books/moby-dick_2701.txt \
        --out benchmarks/results/far_quality.json

The stream is read once with sinks 4 + 1020. At each of five places p a fresh dense session reads from p - 4096 on.
Both are compared on all tokens that are re-read ("whole"), on p - 3072 .. p - 1 ("re-read": its last three quarters,
where dense has 1 to 4 times the context of the sinks) and on the 2048 tokens from p on ("after": 4 to 6 times as much).
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

PIECE = BEFORE = 4096
AFTER = 2048


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def read_with_sinks(loaded: object, ids: list[int], chunk: int) -> tuple[torch.Tensor, list[list[int]], float]:
    """(log-probabilities [tokens], [[tokens, resident bytes]], seconds) of one pass over `ids`."""
    session, start = everlong.Session(loaded, everlong.Sinks(), chunk=chunk), time.perf_counter()
    logprobs, resident = torch.zeros(len(ids)), []
    for at in range(0, len(ids), PIECE):
        logprobs[at : at + PIECE] = session.score(ids[at : at + PIECE])
        resident.append([session.report().seen_tokens, resident_bytes()])
        done = session.report().seen_tokens
        print(f"{done:,} / {len(ids):,} tokens, {done / (time.perf_counter() - start):.0f} tokens/s", file=sys.stderr)
    print(session.report(), file=sys.stderr)
    return logprobs, resident, time.perf_counter() - start


def compare(loaded: object, ids: list[int], logprobs: torch.Tensor, place: int, chunk: int) -> dict[str, float]:
    """Perplexities of sinks (from `logprobs` of the whole stream) and of a dense re-read around `place`."""
    start = place - BEFORE
    with everlong.Session(loaded, everlong.Dense(), chunk=chunk) as session:
        dense = session.score(ids[start : place + AFTER])
    row: dict[str, float] = {"place": place}
    spans = ("whole", start + 1, place), ("re-read", place - BEFORE * 3 // 4, place), ("after", place, place + AFTER)
    for name, a, b in spans:
        pair = -logprobs[a:b].mean(), -dense[a - start : b - start].mean()
        row |= {f"sinks, {name}": math.exp(pair[0]), f"dense, {name}": math.exp(pair[1])}
        row[f"ratio, {name}"] = math.exp(pair[0] - pair[1])
    return row


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--chunk", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2", dtype="float32")
    ids = loaded.tokenizer(args.book.read_text(encoding="utf-8"))["input_ids"][: args.tokens]
    logprobs, resident, seconds = read_with_sinks(loaded, ids, args.chunk)
    rows = []
    for n in range(1, 6):
        rows.append(compare(loaded, ids, logprobs, (len(ids) - AFTER) * n // 5, args.chunk))
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
