"""Conversations whose clients send all messages each time: found again by them, so that none is read twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from everlong.session.session import Session

SHORT_TOKENS = 1024
"""Shorter ones give way before all others: the helper prompts of web pages displace nothing."""


@dataclass(eq=False)
class HeldTurn:
    """A session that has read a conversation up to an answer; `before` has read it up to the answer before."""

    session: Session
    chain: str
    before: HeldTurn | None
    used: int
    bytes: int = 0
    """What it takes in memory: nothing is read into it any more, only into forks of it."""

    def __post_init__(self) -> None:
        self.bytes = memory_bytes(self.session)


class Conversations:
    """Turns that can be gone on from, by the hash of all their messages; the last two of each conversation."""

    def __init__(self) -> None:
        self._held: dict[str, HeldTurn] = {}
        self._uses = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        """What all take in memory."""
        return sum(turn.bytes for turn in self._held.values())

    def find(self, chain: Sequence[str]) -> tuple[int, HeldTurn | None]:
        """How many messages were read already, one less than all at most, and the turn that has read them."""
        for n in range(len(chain) - 1, 0, -1):
            if (turn := self._held.get(chain[n - 1])) is not None:
                self._uses += 1
                turn.used = self._uses
                return n, turn
        return 0, None

    def keep(self, session: Session, chain: str, before: HeldTurn | None) -> None:
        """Hold a session that has read one turn more than `before`; what is two turns older is closed."""
        self._uses += 1
        self._drop(chain)
        self._held[chain] = HeldTurn(session, chain, before, self._uses)
        if before is not None and before.before is not None:
            self._close(before.before)
            before.before = None

    def trim(self, most: int) -> None:
        """Close those used longest ago, short ones first, until all together take at most so many bytes."""
        sizes = {turn: turn.bytes for turn in self._held.values()}
        total = sum(sizes.values())
        for turn in sorted(sizes, key=lambda turn: (turn.session.seen_tokens >= SHORT_TOKENS, turn.used)):
            if total <= most:
                return
            total -= sizes[turn]
            self._close(turn)

    def close(self) -> None:
        """Close all."""
        for turn in list(self._held.values()):
            self._close(turn)

    def _drop(self, chain: str) -> None:
        if (turn := self._held.get(chain)) is not None:
            self._close(turn)

    def _close(self, turn: HeldTurn) -> None:
        if self._held.get(turn.chain) is turn:
            del self._held[turn.chain]
            turn.session.close()


def memory_bytes(session: Session) -> int:
    """What an open session takes in memory by itself, on the model's device and on the host."""
    held = session.report().bytes
    return held.get("device", 0) + held.get("host", 0) - session.keeping.shared_bytes
