"""What `everlong pin` and `everlong unpin` take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class PinOptions:
    """Pin a source or a span of a kept session.

    The blocks that touch the span are pinned whole; what is still in the window is pinned once it leaves it. --json
    prints one object: first, end (tokens), always, keep and all pins of the session.
    """

    session: groups.SessionName = "default"
    span: groups.SpanOptions
    always: Annotated[bool, typer.Option("--always/--no-always", help="Every token attends to it.")] = True
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="It is never given up for room.")] = True
    store: groups.Store = None
    model: groups.ModelChoice
    hardware: groups.Hardware
    output: groups.Output


@dataclass(frozen=True, kw_only=True)
class UnpinOptions:
    """Take away the pins of a source or a span.

    --json prints one object: unpinned (how many) and the pins that are left.
    """

    session: groups.SessionName = "default"
    span: groups.SpanOptions
    store: groups.Store = None
    model: groups.ModelChoice
    hardware: groups.Hardware
    output: groups.Output
