"""How long a session of the server can become."""

from __future__ import annotations

from everlong.engine.budgets import planned_bytes
from everlong.session.session import Session

UNBOUNDED_TOKENS = 2**31 - 1
"""What is said of a context that nothing bounds."""


def context_length(session: Session, free_bytes: int) -> int:
    """How many tokens a session can read: what the model was trained for, or what the disk has room for."""
    trained = getattr(session.model.config.get_text_config(), "max_position_embeddings", None)
    if session.method.name == "dense" and trained:
        return int(trained)
    if not session.method.answers:
        return UNBOUNDED_TOKENS
    one, two = (planned_bytes(session.runner, n * 2**20, session.chunk)["disk"] for n in (1, 2))
    return min(UNBOUNDED_TOKENS, free_bytes * 2**20 // max(1, two - one))
