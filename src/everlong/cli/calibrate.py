"""`everlong calibrate`: finds a model's retrieval heads, once."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from everlong.cli import next_command
from everlong.cli.console import Console
from everlong.cli.groups import ModelChoice
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.calibrate import CalibrateOptions
from everlong.models import retrieval_heads
from everlong.models.retrieval_heads import RetrievalHeads
from everlong.session.calibration import calibrate as found_by_calibration

_WEAK = 0.5
"""Below this recall the heads are not worth their votes."""


def calibrate(ctx: typer.Context, given: CalibrateOptions) -> None:
    """Find the heads, keep them and show what they are worth."""
    console = Console.of(given.output)
    loaded = load_model(ModelChoice(model=given.model), given.hardware, console)
    with console.progress("calibrating", 100, "%") as advance:
        heads = found_by_calibration(loaded, given.seed, given.tokens, advance)
    written = retrieval_heads.save(heads, retrieval_heads.place(loaded.model))
    if given.output.json:
        console.result(_facts(heads, written))
    else:
        _tell(heads, written, console)
        command = shlex.join(["everlong", "doctor", *next_command.same_model(ctx)])
        console.note(f"`everlong read` and `ask` use them from now on.\nNext: {command}")


def _facts(heads: RetrievalHeads, written: Path) -> dict[str, Any]:
    """What was found, ready for JSON."""
    facts = {name: value for name, value in asdict(heads).items() if name not in ("format", "shipped")}
    return facts | {"versions": dict(heads.versions), "file": str(written)}


def _tell(heads: RetrievalHeads, written: Path, console: Console) -> None:
    """The best heads as a table, and what their vote is worth."""
    best = heads.best(min(len(heads.heads), 8))
    print("layer  head   score")
    for (layer, head), score in zip(best.heads, best.scores, strict=True):
        print(f"{layer:5}  {head:4}  {score:6.3f}")
    print(
        f"Their vote on {heads.questions} questions about another text of {heads.tokens:,} tokens: the fact's block "
        f"first in {heads.recall_first:.2f}, among the first four in {heads.recall:.2f}."
    )
    print(f"Wrote {written}")
    if heads.recall is not None and heads.recall < _WEAK:
        console.warn(f"recall {heads.recall:.2f}: these heads find little; this model may be too small for recall")
