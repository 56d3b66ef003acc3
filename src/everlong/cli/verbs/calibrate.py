"""What `everlong calibrate` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Find the model's retrieval heads, once.

    They are the few attention heads that look at a fact when it is asked for, found on a text full of facts and tried
    on another; no data is needed. The file in $EVERLONG_HOME/heads serves the model from then on, in any dtype. --json
    prints one object: heads (layer and query head, the best first), scores, recall (how often the vote of the best
    eight put the fact's block among its first four), recall_first, questions, tokens, seed, file and versions.
    """

    model: groups.Model = "smollm2"
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Tokens of a text; 4,096 or what the model was trained on.")
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Which texts are made.")] = 0
    hardware: groups.Hardware
    config: groups.Config = None
    output: groups.Output
