"""A sentence encoder for a session, with its progress shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.session.session import Session


def use_encoder(session: Session, name: str | None, asked_for: bool, console: Console) -> None:
    """Let the encoder `name` vote in the session; a missing one is an error if it was `asked_for`, else a warning."""
    from everlong.errors import LoadError
    from everlong.models.encoder import SentenceEncoder

    if name is None:
        return
    try:
        encoder = SentenceEncoder.load(name)
    except LoadError as error:
        if asked_for:
            raise
        console.warn(f"without the session's sentence encoder: {error}")
        return
    with console.progress("encoding", session.seen_tokens) as advance:
        for done in session.use_encoder(encoder):
            advance(done, "")
