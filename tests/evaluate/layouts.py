"""Tiny files in the official layouts, with sentences of our own, and a tokenizer that is a function."""

from __future__ import annotations

import json
import re
from pathlib import Path

from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting

_NAMES = "amber basil cedar daisy ember fern ginger hazel iris jasmine kelp laurel"
NAMES = _NAMES.split()


def tokens(text: str, **_: object) -> dict[str, list[int]]:
    """Up to four letters with the space before them, or one other character."""
    return {"input_ids": [len(found[0]) for found in re.finditer(r" ?[A-Za-z]{1,4}|.", text, re.DOTALL)]}


def setting(folder: Path | None = None, seed: int = 0) -> Setting:
    return Setting(tokens, Data(folder), seed)


def total(sample) -> int:
    """Tokens of context and question."""
    return setting().count(sample.context) + setting().count(sample.question)


def books(folder: Path) -> Path:
    """Two books of 2,000 sentences each, all different, with what stands around the books of Project Gutenberg."""
    (folder / "books").mkdir(exist_ok=True)
    for title in ("one", "two"):
        story = "\n".join(f"In year {n} of book {title} the tide\nrose and fell. Who saw it?" for n in range(1000))
        head, tail = ("*** START OF THE BOOK ***", "*** END OF THE BOOK ***")
        (folder / "books" / f"{title}.txt").write_text(f"Licence.\n{head}\n{story}\n{tail}\nMore licence.")
    return folder


def babi(folder: Path) -> Path:
    """qa1 with seven questions about places, and qa8 with lists; no other task."""
    (folder / "babi").mkdir(exist_ok=True)
    moves = [("Ann", "attic"), ("Ben", "barn"), ("Ann", "cellar"), ("Ben", "attic"), ("Ann", "barn")]
    lines = ["1 Ann is in the cellar.", "2 Where is Ann? \tcellar\t1"]
    for story in range(2):
        facts = moves[story:] + moves[:story]
        lines += [f"{2 * n + 1} {who} went to the {place}." for n, (who, place) in enumerate(facts[:1])]
        lines += [f"2 Where is {facts[0][0]}? \t{facts[0][1]}\t1"]
        lines += [f"3 {facts[1][0]} went to the {facts[1][1]}.", f"4 Where is {facts[1][0]}?\t{facts[1][1]}\t3"]
        lines += [f"5 {facts[2][0]} went to the {facts[2][1]}.", f"6 Where is {facts[2][0]}? \t{facts[2][1]}\t5"]
    (folder / "babi" / "qa1_single-supporting-fact_test.txt").write_text("\n".join(lines) + "\n")
    lists = [
        "1 Ann took the milk there.",
        "2 What is Ann carrying? \tmilk\t1",
        "3 Ann took the pear.",
        "4 What is Ann carrying? \tmilk,pear\t1 3",
        "5 What is Ben carrying? \tnothing\t1",
    ]
    (folder / "babi" / "qa8_lists-sets_test.txt").write_text("\n".join(lists) + "\n")
    return folder


def kv(folder: Path) -> Path:
    """Two samples of twelve pairs; asked are the first pair and the eighth."""
    (folder / "kv").mkdir(exist_ok=True)
    pairs = [[f"key-{name}", f"value-{n}-{name}"] for n, name in enumerate(NAMES)]
    rows = [{"ordered_kv_records": pairs, "key": pairs[n][0], "value": pairs[n][1]} for n in (0, 7)]
    (folder / "kv" / "kv-retrieval-12_keys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def longeval(folder: Path, lines: int = 12, samples: int = 2) -> Path:
    """Samples of "200" lines; of the first the second line is asked for, of the next the fifth, and so on."""
    (folder / "longeval").mkdir(exist_ok=True)
    rows = []
    for sample in range(samples):
        names = [f"{NAMES[n % 12]}-{NAMES[n // 12]}-{sample}" for n in range(lines)]
        record = [f"line {name}: REGISTER_CONTENT is <{1000 * sample + n + 100}>" for n, name in enumerate(names)]
        asked = 1 + 3 * sample
        rows.append(
            {
                "random_idx": [names[asked], asked],
                "expected_number": 1000 * sample + asked + 100,
                "num_lines": lines,
                "correct_line": record[asked] + "\n",
                "prompt": "Keep the lines.\n\n" + "\n".join(record) + f"\n\nWhat was in line {names[asked]}? ",
            }
        )
    (folder / "longeval" / "200_lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
