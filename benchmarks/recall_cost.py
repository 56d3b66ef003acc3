r"""What a question costs before it is answered: scout and vote, over how much was read; and the size of the index.

    python benchmarks/recall_cost.py --data $DATA --lengths 8K,128K --out benchmarks/results/recall_cost.json

CPU seconds of one thread (median and range over questions on facts of the task `recall`, kind named), of reading, and
the bytes of the recall index for each token. Blocks are kept as ids, which changes neither.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import everlong
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting, make_task
from everlong.machine import circumstances, commit
from everlong.session.recall import Ballot
from everlong.text.tokenize import token_ids


def cost(loaded: Any, data: Data, length: int, questions: int, seed: int) -> dict[str, Any]:
    """Of one text of `length` tokens."""
    task = make_task("recall", {"kinds": "named", "lengths": length, "questions": questions})
    sample = next(iter(task.make_samples(Setting(loaded.tokenizer, data, seed))))
    with everlong.Session(loaded, everlong.Blocks(keep="ids")) as session:
        begun = time.process_time()
        session.feed(sample.context)
        reading = time.process_time() - begun
        seconds, tokens = [], []
        for question in sample.facts["questions"]:
            ids = token_ids(loaded.tokenizer, question.text)
            begun = time.process_time()
            Ballot(session, ids, question.text).candidates()
            seconds.append(time.process_time() - begun)
            tokens.append(len(ids))
        index = session.stored("cost").rows[0].recall
        return {
            "tokens": session.seen_tokens,
            "reading_s": reading,
            "question_tokens": statistics.median(tokens),
            "scout_and_vote_s": {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)},
            "index_bytes_per_token": None if index is None else index.row_bytes / index.tokens,
        }


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lengths", default="8K,32K")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded, data = everlong.load(args.model, dtype=args.dtype), Data.given(args.data)
    every = make_task("recall", {"lengths": args.lengths}).as_dict()["lengths"]
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "commit": commit(Path(__file__).parent)}
    record["rows"] = [cost(loaded, data, n, args.questions, args.seed) for n in every]
    print(json.dumps(record, indent=1))
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
