"""A sentence encoder for a session, with its progress shown."""

from __future__ import annotations

from everlong.cli.console import Console
from everlong.errors import LoadError
from everlong.models.encoder import SentenceEncoder
from everlong.session.session import Session


def load_encoder(name: str | None, asked_for: bool, console: Console) -> SentenceEncoder | None:
    """The encoder `name`, if there is a name; a missing one is an error if it was `asked_for`, else a warning."""
    if name is None:
        return None
    try:
        return SentenceEncoder.load(name)
    except LoadError as error:
        if asked_for:
            raise
        console.warn(f"without the session's sentence encoder: {error}")
        return None


def use_encoder(session: Session, encoder: SentenceEncoder | None, console: Console) -> None:
    """Let the encoder vote in the session, if there is one; it reads what it has not read yet."""
    if encoder is None:
        return
    with console.progress("encoding", session.seen_tokens) as advance:
        for done in session.use_encoder(encoder):
            advance(done, "")
