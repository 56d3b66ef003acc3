r"""One long stream, read once and kept, and many questions on it: named facts, names it does not have, and pass keys.

    python benchmarks/recall_stream.py --data $DATA --length 128K --facts 20 --seed 51 --books pg19 \
        --store /tmp/recall --out benchmarks/results/recall_stream_128k.json

Named facts are those of the task `recall`, all of one form, at random depths; as many names of that form that the text
does not have are asked for too. The keys of five people stand at .1, .3, .5, .7 and .9 of the text, in the words of the
task `passkey`. An interrupted reading goes on at its last checkpoint when the command is given again.

A named fact is asked for as plain completion (right: each token of the value is the likeliest), through the chat
template (right: the value is in the first tokens of the reply), and by blocks alone where blocks are kept; a key by
passages read again, and by the blocks' way of `generate` (right: the answer begins with it). Scout and vote are timed
alone, CPU time of one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import everlong
from everlong.errors import InputError
from everlong.evaluate.data import Data
from everlong.evaluate.haystack import Hidden, books, hay, measured
from everlong.evaluate.lengths import tokens_of
from everlong.evaluate.recall.cell import OPENING, Question
from everlong.evaluate.recall.judge import judged
from everlong.evaluate.recall.named import FORMS
from everlong.evaluate.recall.posed import SessionAsked
from everlong.evaluate.task import Setting
from everlong.evaluate.words import ADJECTIVES, NOUNS
from everlong.machine import circumstances, commit
from everlong.session.document import Document
from everlong.session.ingest import is_read, read_document
from everlong.session.recall import Ballot
from everlong.text.haystack import NAMES, key_needle, key_question
from everlong.text.tokenize import token_ids

DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
REPLY_TOKENS = 24
EDGE_TOKENS = 1300
"""At both ends so many tokens have no fact: what never left the window need not come back."""


@dataclass(frozen=True)
class Text:
    """What is read, and what is asked of it."""

    content: str
    named: list[Question]
    absent: list[Question]
    keys: list[tuple[float, str, str]]
    """Depth, whose key, key."""


def made(setting: Setting, tokens: int, facts: int, folder: str, start: int) -> Text:
    """A text of so many tokens."""
    rng = setting.rng("stream", tokens, facts)
    size = measured(setting.count)
    form = rng.choice(FORMS)
    things = [form.format(name.title()) for name in rng.sample(ADJECTIVES, 2 * facts)]
    values = [f"{noun}-{rng.randrange(1000, 10000)}" for noun in rng.sample(NOUNS, facts)]
    owners = rng.sample(NAMES, len(DEPTHS))
    keys = [(depth, owner, str(rng.randrange(10_000, 100_000))) for depth, owner in zip(DEPTHS, owners, strict=True)]
    sentences = [f"The {thing} is {value}." for thing, value in zip(things, values, strict=False)]
    edge = EDGE_TOKENS / tokens
    hidden = [Hidden(f" {sentence}", rng.uniform(edge, 1 - edge)) for sentence in sentences]
    hidden += [Hidden(key_needle(owner, key), depth) for depth, owner, key in keys]
    content = hay(books(setting.data, start, folder), tokens, size, hidden, OPENING)
    named = [
        Question(asked(thing), (f" {value}",), (sentence,))
        for thing, value, sentence in zip(things, values, sentences, strict=False)
    ]
    return Text(content, named, [Question(asked(thing), ()) for thing in things[facts:]], keys)


def asked(thing: str) -> str:
    """The question, which ends where the answer begins."""
    return f"\n\nWhat is the {thing}? The {thing} is"


def read(session: everlong.Session, content: str) -> dict[str, float]:
    """Read the text, or what is left of it; CPU seconds and tokens of this call."""
    begun, before = time.process_time(), session.seen_tokens
    digest = hashlib.sha256(content.encode()).hexdigest()
    document = Document("text", f"{digest}:{len(content.encode())}", [content])
    if not is_read(session, document):
        for done in read_document(session, document, every=32768):
            if done % 8192 < session.chunk:
                print(f"{done:,} tokens, {time.process_time() - begun:.0f} CPU seconds", file=sys.stderr, flush=True)
        session.checkpoint()
    return {"tokens": session.seen_tokens - before, "cpu_s": time.process_time() - begun}


def vote_seconds(session: everlong.Session, text: str) -> float:
    """CPU seconds of scout and vote."""
    ids = token_ids(session.tokenizer, text)
    begun = time.process_time()
    Ballot(session, ids, text).candidates()
    return time.process_time() - begun


def plain(session: everlong.Session, question: Question, content: str, again: int) -> dict[str, Any]:
    """A question as plain completion."""
    with session.pose(question.text, again=again, raw=True) as posed:
        found = judged(SessionAsked(posed.session, posed.recall), question, content, session.method)
    facts = {name: found.facts[name] for name in ("depths", "logp", "rank") if name in found.facts}
    return {"said": found.prediction, "right": found.score, "scores": dict(found.scores)} | facts


def chat(session: everlong.Session, question: Question) -> dict[str, Any]:
    """A question through the chat template."""
    reply = session.ask(question.text.strip().partition("?")[0] + "?", max_new_tokens=REPLY_TOKENS)
    text = reply.text
    cited = [n for n, one in enumerate(reply.citations(3), 1) if any(fact in one.text for fact in question.facts)]
    right = all(gold.strip() in text for gold in question.gold)
    return {"reply": text, "right": right, "fact_cited_as": cited[0] if cited else None}


def key_row(session: everlong.Session, depth: float, owner: str, key: str, blocks: bool) -> dict[str, Any]:
    """A pass key, by passages read again and by blocks."""
    question = key_question(owner)
    found: dict[str, Any] = {"depth": depth, "owner": owner, "key": key}
    ways = {"again": 2, "blocks": 0} if blocks else {"again": 2}
    for name, again in ways.items():
        said = session.ask(question, again=again, raw=True, max_new_tokens=8).text
        found[name] = {"said": said, "right": said.strip().startswith(key)}
    return found


def so_far(session: everlong.Session, text: Text) -> Text:
    """The text as far as the session has read it, with what that answers."""
    (source,) = session.transcript.sources
    content = text.content[: session.transcript.chars(source, session.seen_tokens)]
    named = [question for question in text.named if question.facts[0] in content]
    keys = [key for key in text.keys if key_needle(*key[1:]) in content]
    return dataclasses.replace(text, content=content, named=named, keys=keys)


def asked_of(
    session: everlong.Session, text: Text, parts: Sequence[str]
) -> Iterator[tuple[Literal["named", "absent", "keys"], dict[str, Any]]]:
    """All that is asked, with the part of the record that it belongs to."""
    blocks = session.method.as_dict()["keep"] == "blocks" and "blocks" in parts
    for question in text.named if "named" in parts else ():
        row: dict[str, Any] = {"question": question.text.strip(), "gold": question.gold}
        row["scout_and_vote_s"] = vote_seconds(session, question.text)
        row["plain"] = plain(session, question, text.content, 2)
        if "chat" in parts:
            row["chat"] = chat(session, question)
        if blocks:
            row["blocks"] = plain(session, question, text.content, 0)
        yield "named", row
    if "keys" in parts:
        for key in text.keys:
            yield "keys", key_row(session, *key, blocks)
    for question in text.absent if "absent" in parts else ():
        yield "absent", {"question": question.text.strip()} | plain(session, question, text.content, 2)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Sums and medians of the rows."""
    named: Sequence[dict[str, Any]] = record["named"]
    found: dict[str, Any] = {"facts": len(named)}
    for form in ("plain", "chat", "blocks"):
        rows = [row[form] for row in named if form in row]
        if rows:
            found[form] = {"right": int(sum(row["right"] for row in rows)), "of": len(rows)}
    scores = [row["plain"]["scores"] for row in named]
    for name in ("hit", "rank1", "citation1", "citation3"):
        values = [one[name] for one in scores if name in one]
        found[name] = {"sum": sum(values), "of": len(values)}
    right = [row["chat"] for row in named if "chat" in row and row["chat"]["right"]]
    for most in (1, 3):
        cited = sum((row["fact_cited_as"] or 9) <= most for row in right)
        found[f"chat_cited_among_{most}"] = {"sum": cited, "of": len(right)}
    if record["absent"]:
        found["said_absent"] = {"sum": sum(row["right"] for row in record["absent"]), "of": len(record["absent"])}
    for way in ("again", "blocks"):
        rows = [row[way] for row in record["keys"] if way in row]
        if rows:
            found[f"keys_{way}"] = {"right": sum(row["right"] for row in rows), "of": len(rows)}
    seconds = [row["scout_and_vote_s"] for row in named] or [math.nan]
    found["scout_and_vote_s"] = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    return found


def opened(loaded: Any, store: Path, name: str, keep: str) -> everlong.Session:
    """The kept session, or a new one."""
    try:
        return everlong.Session.open(store, name, loaded)
    except InputError:
        return everlong.Session(loaded, everlong.Blocks(keep=keep), store=store, name=name)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--length", default="128K")
    parser.add_argument("--facts", type=int, default=20)
    parser.add_argument("--books", default="books", help="the folder of the data that the filler comes from")
    parser.add_argument("--start", type=int, default=0, help="number of the book that it begins with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default="named,chat,blocks,absent,keys", help="what is asked")
    parser.add_argument("--as-far-as-read", action="store_true", help="read no more; ask about what was read so far")
    parser.add_argument("--keep", choices=("blocks", "ids"), default="blocks")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Read, ask, print and write the record."""
    args = parsed()
    torch.set_num_threads(1)
    loaded = everlong.load(args.model, dtype=args.dtype)
    setting = Setting(loaded.tokenizer, Data.given(args.data), args.seed)
    text = made(setting, tokens_of(args.length, "length"), args.facts, args.books, args.start)
    record: dict[str, Any] = {"command": " ".join(sys.argv), "circumstances": circumstances()}
    record["commit"] = commit(Path(__file__).parent)
    name = f"{args.length}-{args.seed}-{args.keep}"
    if not args.as_far_as_read:
        with opened(loaded, args.store, name, args.keep) as session:
            record["reading"] = read(session, text.content)
    with everlong.Session.open(args.store, name, loaded, read_only=True) as session:
        index = session.stored("cost").rows[0].recall
        record |= {"tokens": session.seen_tokens, "method": str(session.method)}
        record["index_bytes_per_token"] = None if index is None else index.row_bytes / index.tokens
        record["bytes"] = session.report().as_dict()["bytes"]
        record |= {"named": [], "absent": [], "keys": []}
        for part, row in asked_of(session, so_far(session, text), args.parts.split(",")):
            record[part].append(row)
            args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    record["summary"] = summary(record)
    print(json.dumps(record["summary"], indent=1))
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
