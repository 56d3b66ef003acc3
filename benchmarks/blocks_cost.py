r"""What blocks cost at 16K and at 128K tokens: reading, decoding, opening a kept session, anonymous memory.

    python benchmarks/passkey.py --lengths 128K -o codec=int8 --store /tmp/passkey --seed 2
    python benchmarks/blocks_cost.py --store /tmp/passkey --session 128K-0.1-17412 --out blocks_cost.json

The kept session of 128K tokens and a new one of 16K with the same settings read the same tokens in turn, one thread;
figures are CPU seconds (reading) and medians of milliseconds (decoding). Then the sizes of InfLLM's port to the CPU
(sinks 64, window 2048, 16 blocks of 64) at 16K, and dense transformers at 4K and 8K.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from passkey import anonymous_bytes, ids
from transformers import DynamicCache

import everlong
from everlong.evaluate.haystack import KEY_QUESTION, NOISE
from everlong.library.library import Library

PIECE, PIECES, NEW_TOKENS = 1024, 4, 32


def cpu_seconds(session: everlong.Session, text: list[int]) -> float:
    """CPU seconds that the session takes to read this."""
    start = time.process_time()
    session.feed(text)
    return time.process_time() - start


def decode_ms(session: everlong.Session) -> float:
    """Median milliseconds of a new token."""
    times, start = [], time.perf_counter()
    for _ in session.stream(KEY_QUESTION, max_new_tokens=NEW_TOKENS, temperature=1.0, seed=0):
        times.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
    return statistics.median(times[1:])


def dense(loaded: everlong.models.load.Loaded, text: list[int], tokens: int) -> dict[str, float]:
    """Plain transformers: CPU seconds for the last 1,024 of `tokens`, median milliseconds of a new token after them."""
    cache, prompt = DynamicCache(), torch.tensor(text[:tokens])[None]
    with torch.inference_mode():
        for piece in prompt[:, : tokens - PIECE].split(512, 1):
            loaded.model(piece, past_key_values=cache, logits_to_keep=1)
        start = time.process_time()
        for piece in prompt[:, tokens - PIECE :].split(512, 1):
            out = loaded.model(piece, past_key_values=cache, logits_to_keep=1)
        read, times = time.process_time() - start, []
        for _ in range(8):
            begun = time.perf_counter()
            out = loaded.model(out.logits[:, -1:].argmax(-1), past_key_values=cache)
            times.append(1000 * (time.perf_counter() - begun))
    return {"read_cpu_s_per_1k": read, "decode_ms": statistics.median(times)}


def in_turn(sessions: dict[str, everlong.Session], text: list[int]) -> dict[str, dict[str, float]]:
    """What reading and decoding cost in each session, the pieces taken in turn."""
    read: dict[str, list[float]] = {name: [] for name in sessions}
    for n in range(PIECES + 1):
        for name, session in sessions.items():
            read[name].append(cpu_seconds(session, text[n * PIECE : (n + 1) * PIECE]))
    return {
        name: {
            "tokens": session.seen_tokens,
            "read_cpu_s_per_1k": statistics.median(read[name][1:]) * 1000 / PIECE,
            "read_spread": (max(read[name][1:]) - min(read[name][1:])) / statistics.median(read[name][1:]),
            "decode_ms": decode_ms(session),
            "cache_hit_rate": session.report().as_dict()["cache_hit_rate"],
        }
        for name, session in sessions.items()
    }


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--host-budget", default="512M")
    parser.add_argument("--short", type=int, default=16384)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load("smollm2", dtype="float32")
    record: dict[str, object] = {"command": " ".join(sys.argv)}
    text = ids(loaded.tokenizer, NOISE) * (args.short // 10)
    library, copies = Library(args.store), ("cost-long", "cost-short")
    for name in copies:
        if library.find(name) is not None:
            library.delete(name)
    with everlong.Session(loaded, everlong.Dense()):
        record["model_anonymous_bytes"] = anonymous_bytes()
    library.fork(args.session, "cost-long")
    with everlong.attach(loaded.model, everlong.Blocks(codec="int8")):
        start = time.perf_counter()
        long = everlong.Session.open(args.store, "cost-long", loaded, host_budget=args.host_budget)
        record["open_s"] = time.perf_counter() - start
    short = everlong.Session(loaded, long.method, store=args.store, name="cost-short")
    with long, short:
        short.feed(text[: args.short - PIECE])
        record["in_turn"] = in_turn({"long": long, "short": short}, text)
        record["anonymous_bytes_with_both"] = anonymous_bytes()
        record["host_budget"], record["long_host_bytes"] = args.host_budget, long.report().bytes["host"]
    with everlong.Session(loaded, everlong.Blocks(window=2048, block=64, top_k=16)) as session:
        session.feed(text[: args.short - PIECE])
        record["w2048_l64_k16"] = {"read_cpu_s_per_1k": cpu_seconds(session, text[:PIECE]) * 1000 / PIECE}
    record["dense"] = {str(n): dense(loaded, text, n) for n in (4096, 8192)}
    for name in copies:
        library.delete(name)
    record |= {"versions": {"everlong": everlong.__version__, "torch": torch.__version__}}
    record |= {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
