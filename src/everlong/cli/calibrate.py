"""`everlong calibrate`: finds a model's retrieval heads, once."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import next_command, options

if TYPE_CHECKING:
    from pathlib import Path

    from everlong.cli.console import Console
    from everlong.models.retrieval_heads import RetrievalHeads

_WEAK = 0.5
"""Below this recall the heads are not worth their votes."""


def calibrate(
    ctx: typer.Context,
    model: options.Model = "smollm2",
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Tokens of a text; 4,096 or what the model was trained on.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which texts are made.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Find the model's retrieval heads, once.

    They are the few attention heads that look at a fact when it is asked for, found on a text full of facts and tried
    on another; no data is needed. The file in $EVERLONG_HOME/heads serves the model from then on, in any dtype. --json
    prints one object: heads (layer and query head, the best first), scores, recall (how often the vote of the best
    eight put the fact's block among its first four), recall_first, questions, tokens, seed, file and versions.
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.models import retrieval_heads
    from everlong.session.calibration import calibrate as found_by_calibration

    console = Console(quiet, json)
    loaded = load_model(model, dtype, device, threads, console)
    with console.progress("calibrating", 100, "%") as advance:
        heads = found_by_calibration(loaded, seed, tokens, advance)
    written = retrieval_heads.save(heads, retrieval_heads.place(loaded.model))
    if json:
        console.result(_facts(heads, written))
    else:
        _tell(heads, written, console)
        command = shlex.join(["everlong", "doctor", *next_command.same_model(ctx)])
        console.note(f"`everlong read` and `ask` use them from now on.\nNext: {command}")


def _facts(heads: RetrievalHeads, written: Path) -> dict[str, Any]:
    """What was found, ready for JSON."""
    from dataclasses import asdict

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
