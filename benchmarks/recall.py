r"""Whether the right passage comes back for each question: the task `recall` on several methods, on the same texts.

    python benchmarks/recall.py --data $DATA --kinds named,codes --texts 3 --work /tmp/recall \
        --out benchmarks/results/recall.json

A method is NAME[:FIELD=VALUE,...][@WAYS]: WAYS are how many passages are read again (0: blocks alone; auto), asked of
one reading. The first one is what the others are compared with, question by question: the mean difference of the gold
answer's log-probability for each token (natural logarithm), with a 95 % bootstrap interval over texts, and a sign test
of who is right. Where it can take no text at all (dense beyond the trained length), the next one is the first. What was
done stays in --work after each text: the same command goes on from there. Columns: see `recall` in docs/tasks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import everlong
from everlong.config import parse_options
from everlong.evaluate.data import Data
from everlong.evaluate.folder import read_records
from everlong.evaluate.metrics.paired import paired
from everlong.evaluate.plan import Entry, Plan
from everlong.evaluate.recall.kinds import KINDS
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import make_task
from everlong.machine import circumstances, commit
from everlong.methods import Method, make_method

METHODS = ("dense", "blocks:recall=layer@0", "blocks@0,2")
SHARES = ("hit", "found", "rank1", "rank3", "citation1", "citation3", "stands_out", "said_absent")
"""Scores whose mean over questions is shown."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """A method, and the ways in which it is asked."""

    spec: str
    method: Method
    ways: tuple[int | str, ...]

    @classmethod
    def parsed(cls, spec: str) -> Tried:
        """From NAME[:FIELD=VALUE,...][@WAYS]."""
        described, _, ways = spec.partition("@")
        name, _, fields = described.partition(":")
        method = make_method(name, parse_options(filter(None, fields.split(","))))
        return cls(described, method, make_task("recall", {"again": ways or "0"}).as_dict()["again"])

    def owns(self, record: Record) -> bool:
        """Whether the record is one of this method, asked in these ways."""
        settings = json.loads(json.dumps(self.method.as_dict()))
        ours = [self.method.name, settings, list(self.ways)]
        return [record["method"], record["settings"], record["options"]["again"]] == ours


@dataclass(frozen=True)
class Variant:
    """All records of one method asked in one way; questions by text and number."""

    name: str
    questions: dict[tuple[str, str], Record]
    texts: list[Record]
    """What the recalls of a text share."""

    def of(self, kinds: Sequence[str]) -> Variant:
        """Only texts of these kinds."""
        kept = {key: record for key, record in self.questions.items() if kind_of(record) in kinds}
        return dataclasses.replace(
            self, questions=kept, texts=[record for record in self.texts if kind_of(record) in kinds]
        )


def kind_of(record: Record) -> str:
    """The kind of fact, from the name of the text."""
    return record["id"].split("-")[0]


def variants(tried: Sequence[Tried], records: Sequence[Record]) -> list[Variant]:
    """Each method in each way, in the order in which they were given."""
    found: dict[str, Variant] = {}
    for one in tried:
        for record in filter(one.owns, records):
            if record["status"] != "ok":
                continue
            number, _, way = record["part"].partition(", ")
            way = way or (f"again={one.ways[0]}" if "again" in record["facts"] or number == "shared" else "")
            name = f"{one.spec} {way}".strip()
            into = found.setdefault(name, Variant(name, {}, []))
            if number == "shared":
                into.texts.append(record)
            else:
                into.questions[record["id"], number] = record
    return list(found.values())


def row(variant: Variant, first: Variant) -> Record:
    """A variant beside the first one."""
    judged = [record for record in variant.questions.values() if record["score"] is not None]
    found: Record = {"variant": variant.name, "right": int(sum(r["score"] for r in judged)), "n": len(judged)}
    logps = [record["facts"]["logp"] for record in judged if "logp" in record["facts"]]
    found["logp"] = mean(logps)
    for name in SHARES:
        found[name] = mean([r["scores"][name] for r in variant.questions.values() if name in r["scores"]])
    for name in ("shared", "shared_citations"):
        found[name] = mean([r["scores"][name] for r in variant.texts if name in r["scores"]])
    found["seconds_a_question"] = mean([record["seconds"] for (_, n), record in variant.questions.items() if n != "0"])
    return found | compared(variant, first)


def compared(variant: Variant, first: Variant) -> Record:
    """Differences on the questions that both have."""
    both = [key for key, record in variant.questions.items() if "logp" in record["facts"] and key in first.questions]
    ours, theirs = ([one.questions[key] for key in both] for one in (variant, first))
    texts = [key[0] for key in both]
    logp = paired([r["facts"]["logp"] for r in ours], [r["facts"]["logp"] for r in theirs], texts)
    right = paired([r["score"] for r in ours], [r["score"] for r in theirs], texts)
    return {"pairs": len(both), "logp_less_first": plain(logp), "right_less_first": plain(right)}


def plain(found: Any) -> Record:
    """Without NaN, which JSON does not have."""
    fields = dataclasses.asdict(found)
    return {n: None if isinstance(x, float) and math.isnan(x) else x for n, x in fields.items()}


def left_out(tried: Sequence[Tried], records: Sequence[Record]) -> list[str]:
    """A line for each method that could not take some texts."""
    found = []
    for one in tried:
        notes = [r["note"] for r in filter(one.owns, records) if r["status"] != "ok"]
        if notes:
            found.append(f"{one.spec}: {len(notes)} texts left out, the first because of {notes[0]}")
    return found


def mean(values: Sequence[float]) -> float | None:
    """None without values."""
    return sum(values) / len(values) if values else None


def tables(found: Sequence[Variant], kinds: Sequence[str]) -> dict[str, list[Record]]:
    """Rows of each kind, and of all but absent, whose score is another one."""
    parts = {kind: [kind] for kind in kinds} | {"all": [kind for kind in kinds if kind != "absent"]}
    return {name: [row(one.of(part), found[0].of(part)) for one in found] for name, part in parts.items()}


def shown(name: str, rows: Sequence[Record]) -> str:
    """A Markdown table."""
    first = f"less {rows[0]['variant']}"
    head = ["variant", "right", "better/worse (p)", "logp", f"{first} (95 %)", *SHARES, "shared", "of citations"]
    lines = [f"\n**{name}**\n", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in rows:
        right, logp = one["right_less_first"], one["logp_less_first"]
        cells = [one["variant"], f"{one['right']} of {one['n']}"]
        cells += [f"{right['better']}/{right['worse']} ({right['p']:.2g})", number(one["logp"])]
        cells += [f"{number(logp['mean'])} ({number(logp['low'])}, {number(logp['high'])})"]
        cells += [number(one[share]) for share in (*SHARES, "shared", "shared_citations")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Two digits, or a dash."""
    return "-" if value is None else f"{value:.2f}"


@contextmanager
def said(total: int) -> Iterator[Callable[[int, str], None]]:
    """Progress as lines, one for each text."""
    last = ""

    def advance(done: int, words: str) -> None:
        nonlocal last
        if words != last:
            print(f"{done / max(1, total):.0%} {words}", file=sys.stderr, flush=True)
        last = words

    yield advance


def planned(args: argparse.Namespace, tried: Sequence[Tried]) -> Plan:
    """Kind by kind, so that what is done so far can be compared."""
    entries = []
    for kind in args.kinds.split(","):
        for one in tried:
            fields = {"kinds": kind, "lengths": args.lengths, "texts": args.texts, "questions": args.questions}
            task = make_task("recall", fields | {"again": one.ways, "tail": args.tail, "filler": args.filler})
            entries.append(Entry(task, (one.method,)))
    return Plan(tuple(entries), args.model, dtype=args.dtype, chunk=args.chunk, threads=args.threads, seed=args.seed)


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--method", dest="methods", action="append", help=f"default: {' '.join(METHODS)}")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--lengths", default="8K")
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--tail", type=int, default=1280)
    parser.add_argument("--filler", default="books")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, help="keep blocks on the disk, in this folder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tried = [Tried.parsed(spec) for spec in args.methods or METHODS]
    plan = planned(args, tried)
    loaded = everlong.load(args.model, dtype=args.dtype)
    evaluate(plan, loaded, args.work, Data.given(args.data), said, args.store)
    records = read_records(args.work)
    found = variants(tried, records)
    by_kind = tables(found, args.kinds.split(","))
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "commit": commit(Path(__file__).parent)}
    print(f"{record['command']}\n{record['circumstances']}")
    for name, rows in by_kind.items():
        if rows:
            print(shown(name, rows))
    missing = left_out(tried, records)
    print("\n".join(["", *missing]))
    record |= {"plan": plan.as_dict(), "left_out": missing, "tables": by_kind}
    args.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {args.out}; records are in {args.work}")


if __name__ == "__main__":
    main()
