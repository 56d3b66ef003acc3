r"""What the passages say, read once more before a question: each question with it and without, on one kept session.

    python benchmarks/recall_again.py --data $DATA --kinds named --lengths 128K --questions 16 --seed 33 \
        --store /tmp/recall --out benchmarks/results/recall_again_128k.json

Facts are those of the task `recall`. A text is read once into a session of --store, and opened there when the command
is given again. Each question is put as plain completion (right: each token of the value is the likeliest) and through
the chat template (right: the value is in the first tokens of the reply), and the CPU time of scout and vote is taken.
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
from everlong.errors import InputError
from everlong.evaluate.data import Data
from everlong.evaluate.recall.cell import Question
from everlong.evaluate.recall.forced import forced
from everlong.evaluate.recall.posed import SessionAsked
from everlong.evaluate.task import Sample, Setting, make_task
from everlong.machine import circumstances, commit
from everlong.session import asking
from everlong.session.recall import Ballot
from everlong.text.tokenize import token_ids

REPLY_TOKENS = 24


@contextmanager
def said_again(tokens: int) -> Iterator[None]:
    """Sentences of so many tokens at most are read once more (0: none are)."""
    before = asking.SAID_AGAIN_TOKENS
    asking.SAID_AGAIN_TOKENS = tokens
    try:
        yield
    finally:
        asking.SAID_AGAIN_TOKENS = before


def opened(loaded: Any, sample: Sample, store: Path, keep: str) -> everlong.Session:
    """The session that has read the sample's text; reads it where the store has none."""
    name = sample.id
    try:
        return everlong.Session.open(store, name, loaded, read_only=True)
    except InputError:
        with everlong.Session(loaded, everlong.Blocks(keep=keep), store=store, name=name) as session:
            session.feed(sample.context)
            session.checkpoint()
    return everlong.Session.open(store, name, loaded, read_only=True)


def answers(session: everlong.Session, question: Question) -> dict[str, Any]:
    """One question in one form."""
    with session.pose(question.text, again=2, raw=True) as posed:
        assert posed.recall is not None
        found = forced(SessionAsked(posed.session, posed.recall), question)
        shown = [any(fact in passage.text for fact in question.facts) for passage in posed.recall.shown]
        first = any(fact in posed.recall.passages[0].text for fact in question.facts)
    asked = question.text.strip().partition("?")[0] + "?"
    reply = session.ask(asked, again=2, max_new_tokens=REPLY_TOKENS).text
    told = all(gold.strip() in reply for gold in question.gold)
    said = session.tokenizer.decode(found.likeliest)
    judged = {"right": found.right, "logp": found.logp, "said": said, "reply": reply, "reply_right": told}
    return judged | {"fact_first": first, "fact_in_shown": shown}


def row(session: everlong.Session, question: Question) -> dict[str, Any]:
    """One question with the sentences read once more and without, and what scout and vote take."""
    ids = token_ids(session.tokenizer, question.text)
    begun = time.process_time()
    Ballot(session, ids, question.text).candidates()
    seconds = time.process_time() - begun
    found: dict[str, Any] = {"question": question.text.strip(), "gold": question.gold, "scout_and_vote_s": seconds}
    for name, tokens in (("without", 0), ("with", asking.SAID_AGAIN_TOKENS)):
        with said_again(tokens):
            found[name] = answers(session, question)
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the questions of a text."""
    seconds = [one["scout_and_vote_s"] for one in rows]
    found: dict[str, Any] = {"questions": len(rows), "fact_first": sum(one["with"]["fact_first"] for one in rows)}
    found["scout_and_vote_s"] = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    for name in ("without", "with"):
        form = [one[name] for one in rows]
        found[name] = {key: sum(one[key] for one in form) for key in ("right", "reply_right")}
        found[name]["logp"] = statistics.mean(one["logp"] for one in form)
    return found


def main() -> None:
    """Read, ask, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--kinds", default="named")
    parser.add_argument("--lengths", default="8K")
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", choices=("blocks", "ids"), default="ids")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load(args.model, dtype=args.dtype)
    fields = {"kinds": args.kinds, "lengths": args.lengths, "texts": args.texts, "questions": args.questions}
    samples = make_task("recall", fields).make_samples(Setting(loaded.tokenizer, Data.given(args.data), args.seed))
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "commit": commit(Path(__file__).parent)}
    texts = []
    for sample in samples:
        with opened(loaded, sample, args.store / f"seed{args.seed}", args.keep) as session:
            rows = [row(session, question) for question in sample.facts["questions"]]
            texts.append({"text": sample.id, "tokens": session.seen_tokens, "summary": summary(rows), "rows": rows})
        print(sample.id, json.dumps(texts[-1]["summary"]), flush=True)
        args.out.write_text(json.dumps(record | {"texts": texts}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
