"""What `everlong forget` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """Forget a source or a span of a kept session.

    The blocks that touch the span are dropped and overwritten on the disk (where a fork needs them: once it does not);
    no answer draws on them again and no citation shows them. Tokens that were read later keep traces of the span. With
    --reread there are none: every token of the session but the forgotten ones is read again, which takes as long as
    reading took and twice the room on the disk until it is done; it goes on where an interrupt stopped it. --json
    prints one object: tokens, blocks, neighbour_tokens and shared_blocks; with --reread tokens and lost_pins.
    """

    session: groups.SessionName = "default"
    span: groups.SpanOptions
    reread: Annotated[
        bool, typer.Option("--reread", help="Build the session anew without it: reads all the rest again.")
    ] = False
    store: groups.Store = None
    model: groups.ModelChoice
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    output: groups.Output
