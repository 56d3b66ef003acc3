r"""Pass keys: a five-digit number hidden in filler, asked for at the end, with its dense control.

    python benchmarks/passkey.py --method blocks --lengths 8K,32K --out benchmarks/results/passkey_blocks.json

The prompt is a plain completion ("... What is the pass key? The pass key is"), as small models want it. The text before
the question is fed, the question is asked; right is an answer that begins with all five digits.

With --store the sessions are kept on the disk, an interrupted run goes on where it stopped, and what the depths have in
common (the filler before the key) is read once and forked:

    python benchmarks/passkey.py --lengths 128K -o codec=int8 --store /tmp/passkey --out passkey_blocks_128k.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path

import torch

import everlong
from everlong.config import parse_options
from everlong.evaluate.haystack import KEY, KEY_QUESTION, NOISE, OPENING
from everlong.library.library import Library
from everlong.methods import make_method


def needle(key: int) -> str:
    """The sentence to be found."""
    return KEY.format(key=key)


def text(tokenizer: object, tokens: int, depth: float, key: int) -> list[int]:
    """Ids [about `tokens`] of opening, filler and the needle at `depth` (0 start, 1 end)."""
    opening, filler, hidden = (ids(tokenizer, part) for part in (OPENING, NOISE, needle(key)))
    repeats = (tokens - len(opening) - len(hidden) - len(ids(tokenizer, KEY_QUESTION))) // len(filler)
    first = round(repeats * depth)
    return opening + filler * first + hidden + filler * (repeats - first)


def before(prompt: list[int], hidden: list[int]) -> int:
    """How many tokens stand before the needle."""
    return next(n for n in range(len(prompt)) if prompt[n : n + len(hidden)] == hidden)


def ids(tokenizer: object, part: str) -> list[int]:
    """Token ids of a text, nothing added."""
    return tokenizer(part, add_special_tokens=False)["input_ids"]  # type: ignore[operator]


def ask(
    loaded: everlong.models.load.Loaded, method: object, chunk: int, prompt: list[int], key: int
) -> dict[str, object]:
    """Reads the prompt, asks, and says what came back."""
    start = time.perf_counter()
    with everlong.Session(loaded, method, chunk=chunk) as session:
        for at in range(0, len(prompt), 8192):
            session.feed(prompt[at : at + 8192])
            print(f"{session.seen_tokens:,} / {len(prompt):,} tokens", end="\r", file=sys.stderr)
        read = time.perf_counter() - start
        answer = session.generate(KEY_QUESTION, max_new_tokens=8)
        found = {"text": answer.text, "right": answer.text.strip().startswith(str(key)), "tokens": session.seen_tokens}
        found |= {
            "read_s": read,
            "ms_per_new_token": answer.seconds_per_token * 1000,
            "report": session.report().as_dict(),
        }
        return found


class Kept:
    """Sessions in a folder: a trunk of filler that every depth shares, and a fork of it for each key."""

    def __init__(self, loaded: everlong.models.load.Loaded, method: object, chunk: int, store: Path) -> None:
        self.loaded, self.method, self.chunk, self.library = loaded, method, chunk, Library(store)
        self.peak_anonymous_bytes = 0

    def open(self, name: str, read_only: bool = False) -> everlong.Session:
        """The session of this name, or a new one."""
        if self.library.find(name) is None:
            return everlong.Session(self.loaded, self.method, self.chunk, self.library.folder, name)
        return everlong.Session.open(self.library.folder, name, self.loaded, self.chunk, read_only)

    def plant(self, name: str, prompt: list[int], shared: int) -> None:
        """Fork the trunk where it holds the first `shared` tokens of the prompt and no more."""
        if self.library.find(name) is not None:
            return
        trunk = self.library.find("trunk")
        if trunk is None or trunk.tokens <= shared:
            self.read("trunk", prompt[:shared])
            self.library.fork("trunk", name)

    def read(self, name: str, prompt: list[int]) -> float:
        """Reads what is left of the prompt; the seconds this took."""
        with self.open(name) as session:
            start = time.perf_counter()
            for at in range(session.seen_tokens, len(prompt), 8192):
                session.feed(prompt[at : at + 8192])
                session.checkpoint()
                self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, anonymous_bytes())
                print(f"{name}: {session.seen_tokens:,} / {len(prompt):,} tokens", flush=True, file=sys.stderr)
            return time.perf_counter() - start

    def ask(self, name: str, prompt: list[int], key: int) -> dict[str, object]:
        """Reads to the end, opens the session anew, asks, and says what came back."""
        read_s = self.read(name, prompt)
        start = time.perf_counter()
        with self.open(name, read_only=True) as session:
            opened = time.perf_counter() - start
            answer = session.generate(KEY_QUESTION, max_new_tokens=8)
            return {
                "text": answer.text,
                "right": answer.text.strip().startswith(str(key)),
                "tokens": session.seen_tokens,
                "read_s": read_s,
                "open_s": opened,
                "ms_per_new_token": answer.seconds_per_token * 1000,
                "peak_anonymous_bytes": max(self.peak_anonymous_bytes, anonymous_bytes()),
                "cited": [[c.start, c.end, c.mass] for c in session.citations(3)],
                "report": session.report().as_dict(),
            }


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process now (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("RssAnon"))


def size(length: str) -> int:
    """How many tokens 32K or 1M stands for."""
    return int(length[:-1]) * {"K": 1 << 10, "M": 1 << 20}[length[-1]] if length[-1] in "KM" else int(length)


def _write(out: Path | None, rows: list[dict[str, object]], method: object) -> None:
    """The record so far."""
    lengths = dict.fromkeys(str(row["length"]) for row in rows)
    record = {
        "command": " ".join(sys.argv),
        "method": str(method),
        "right": {n: sum(bool(r["right"]) for r in rows if r["length"] == n) for n in lengths},
        "rows": rows,
        "versions": {"everlong": everlong.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    if out:
        out.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="blocks")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("--lengths", default="8K")
    parser.add_argument("--depths", default=".1,.3,.5,.7,.9")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = everlong.load(args.model, dtype=args.dtype)
    method, draw, rows = make_method(args.method, parse_options(args.options)), random.Random(args.seed), []
    cases = [
        (length, float(depth), draw.randrange(10000, 100000))
        for length in args.lengths.split(",")
        for depth in args.depths.split(",")
    ]
    prompts = [text(loaded.tokenizer, size(length), depth, key) for length, depth, key in cases]
    kept = None if args.store is None else Kept(loaded, method, args.chunk, args.store)
    if kept is not None:
        shared = [before(p, ids(loaded.tokenizer, needle(key))) for p, (_, _, key) in zip(prompts, cases, strict=True)]
        for tokens, (length, depth, key), prompt in sorted(zip(shared, cases, prompts, strict=True)):
            kept.plant(f"{length}-{depth}-{key}", prompt, tokens)
        cases, prompts = cases[::-1], prompts[::-1]
    for (length, depth, key), prompt in zip(cases, prompts, strict=True):
        if kept is not None:
            row = kept.ask(f"{length}-{depth}-{key}", prompt, key)
        else:
            row = ask(loaded, method, args.chunk, prompt, key)
        rows.append({"length": length, "depth": depth, "key": key} | row)
        print(
            f"{length} depth {depth}: {key} -> {row['text']!r} {'right' if row['right'] else 'WRONG'}"
            f" ({row['read_s']:.0f} s, {row['ms_per_new_token']:.0f} ms a token)",
            flush=True,
        )
        _write(args.out, rows, method)
    print({n: sum(r["right"] for r in rows if r["length"] == n) for n in args.lengths.split(",")})


if __name__ == "__main__":
    main()
