"""How many records a kept session finds in host memory, by how many blocks of a layer stay there and which leave first.

    python benchmarks/resident_blocks.py --store STORE --session NAME --text BOOK --skip CHARACTERS \
        --out benchmarks/results/resident_blocks.json

Opens the session read-only for each rule and reads the same 192 tokens as answers: 24 choices of every layer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

import everlong
from everlong.machine import circumstances
from everlong.storage.disk import DiskStore

TOKENS = 192
RULES = [(None, "lru", 0.9), *[(n, *how) for n in (16, 32) for how in (("lru", 0.9), ("score", 0.1), ("score", 0.9))]]


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--skip", type=int, default=0, help="characters of the text that the session has read")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load(dtype="float32")
    text = args.text.read_text(encoding="utf-8")[args.skip : args.skip + 8 * TOKENS]
    ids = loaded.tokenizer(text)["input_ids"][:TOKENS]
    rows = []
    for per_layer, evict, decay in RULES:
        with everlong.Session.open(args.store, args.session, loaded, read_only=True) as session:
            store = session.stored("resident").rows[0].store
            assert isinstance(store, DiskStore)
            store.resident.rule(per_layer, evict, decay)
            session.feed(ids, answering=True)
            report = session.report()
        rows.append(
            {
                "resident": per_layer,
                "evict": evict,
                "score_decay": decay if evict == "score" else None,
                "hits": report.cache_hits,
                "misses": report.cache_misses,
                "hit_rate": round(report.cache_hit_rate or 0.0, 4),
            }
        )
        print(rows[-1], flush=True)
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "rows": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
