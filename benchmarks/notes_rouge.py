"""Do notes on a story say more of it when more of it was read? ROUGE against the summaries that people wrote.

    python benchmarks/notes_rouge.py --stories 5 --out benchmarks/results/notes_rouge.json

SQuALITY's development stories (CC BY 4.0; `EVERLONG_DATA`/squality) and their first question, "What is the plot of the
story?", with four answers each. A quarter, a half and all of a story is read (as pieces, rounded up), and notes are
written on that. Scored, by F1 against the reference that suits best: the top note, as kept and as the model wrote it
(where it only copied one of the notes, the first sentences of all are kept instead); the notes on pieces one after the
other; and as baselines what stands in the first piece, summarised directly by the same model at more length,
and the story's first words, as many as the top note or all notes have.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import everlong
from everlong.evaluate.tasks.booksum import rouge
from everlong.machine import circumstances
from everlong.session.note_plan import NotePiece, NoteSettings, plan_notes
from everlong.session.note_writer import NOTHING, NoteWriter, first_sentences, is_copied
from everlong.text.transcript import Transcript

SHARES = (0.25, 0.5, 1.0)
LONG_TOKENS = 192
"""Tokens of the summary that is written in one go, at most."""


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=5)
    parser.add_argument("--skip", type=int, default=0, help="stories left out at the beginning")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = everlong.load(dtype="float32")
    data = Path(os.environ.get("EVERLONG_DATA", "../shared/data")) / "squality" / "dev.jsonl"
    lines = data.read_text(encoding="utf-8").splitlines()[args.skip : args.skip + args.stories]
    rows: list[dict[str, Any]] = []
    for line in lines:
        rows.append(measured(loaded, json.loads(line)))
        record = {
            "command": " ".join(sys.argv),
            "circumstances": circumstances(),
            "settings": repr(NoteSettings()),
            "mean": means(rows),
            "stories": rows,
        }
        args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(json.dumps(means(rows)), flush=True)


def measured(loaded: Any, story: dict[str, Any]) -> dict[str, Any]:
    """The scores of one story, and what the notes took."""
    question = min(story["questions"], key=lambda q: q["question_number"])
    golds = [response["response_text"] for response in question["responses"]]
    text, begun = story["document"], time.process_time()
    with NoteWriter(loaded, NoteSettings()) as writer:
        transcript = Transcript(loaded.tokenizer)
        source = transcript.begin("story")
        transcript.add(loaded.tokenizer(text, add_special_tokens=False)["input_ids"], "story")
        pieces = [p for p in plan_notes(transcript, source, writer.settings) if not p.made_of]
        notes = [writer.note(transcript.text(*piece.tokens)) for piece in pieces]
        scores: dict[str, dict[str, float]] = {}
        texts: dict[str, str] = {}
        for share in SHARES:
            read = notes[: math.ceil(share * len(notes))]
            own, texts[f"top note, {share:.0%} read"] = top_note(writer, read)
            texts[f"top note in the model's own words, {share:.0%} read"] = own
            texts[f"piece notes, {share:.0%} read"] = "\n".join(read)
        cost = {"read_tokens": writer.read_tokens, "written_tokens": writer.written_tokens}
    seconds = time.process_time() - begun
    texts["first piece in one go"] = in_one_go(loaded, transcript, pieces[0])
    for name in ("top note", "piece notes"):
        words = len(texts[f"{name}, 100% read"].split())
        texts[f"first words, as many as {name}"] = " ".join(text.split()[:words])
    for name, said in texts.items():
        scores[name] = {key: round(value, 4) for key, value in rouge(said, golds).items()} | {
            "words": len(said.split())
        }
    return {
        "id": story["metadata"]["passage_id"],
        "tokens": len(transcript.ids),
        "pieces": len(pieces),
        "cpu_seconds": round(seconds, 1),
        **cost,
        "scores": scores,
    }


def top_note(writer: NoteWriter, notes: list[str]) -> tuple[str, str]:
    """The note on all these notes: as the model wrote it, and as `write_notes` keeps it; in groups, up to one."""
    own = notes[0]
    while len(notes) > 1:
        size = writer.settings.fan_in
        groups = [[n for n in notes[i : i + size] if n != NOTHING] for i in range(0, len(notes), size)]
        written = [writer.note("\n".join(group)) for group in groups]
        own = written[0]
        notes = [
            first_sentences(group) if len(group) > 1 and is_copied(text, group) else text
            for text, group in zip(written, groups, strict=True)
        ]
    return own, notes[0]


def in_one_go(loaded: Any, transcript: Transcript, piece: NotePiece) -> str:
    """A longer summary of the first piece: what a model does that is given as much of a text as it was trained on."""
    settings = NoteSettings(max_new_tokens=LONG_TOKENS)
    with NoteWriter(loaded, settings) as writer:
        return writer.note(transcript.text(*piece.tokens))


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean scores over the stories, and the standard error of ROUGE-L where there are several."""
    found = {}
    for name in rows[0]["scores"]:
        each = [row["scores"][name] for row in rows]
        found[name] = {key: round(statistics.mean(one[key] for one in each), 4) for key in each[0]}
        if len(rows) > 1:
            spread = statistics.stdev(one["rougeL"] for one in each)
            found[name]["rougeL_error"] = round(spread / math.sqrt(len(rows)), 4)
    return found


if __name__ == "__main__":
    main()
