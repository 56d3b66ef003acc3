"""A place in a stream to come back to."""

from __future__ import annotations

from torch import Tensor

from everlong.engine.runner import StreamRunner
from everlong.text.inputs import TokenHistory
from everlong.text.transcript import Transcript


class Snapshot:
    """What a session had read when `session.mark()` was called; holds a copy of the cache until it is closed."""

    def __init__(
        self,
        reader: StreamRunner,
        recent: TokenHistory,
        last: Tensor | None,
        transcript: Transcript,
        conversing: bool | None,
    ) -> None:
        self._runner: StreamRunner | None = reader
        self._recent = recent
        self._last = last
        self._transcript = transcript
        self.conversing = conversing

    @property
    def seen_tokens(self) -> int:
        """Tokens that the session had read."""
        return self._recent.seen

    @property
    def closed(self) -> bool:
        """Whether the copy was freed."""
        return self._runner is None

    def copy(self) -> tuple[StreamRunner, TokenHistory, Tensor | None, Transcript]:
        """The parts of a session at this place, independent of the mark."""
        assert self._runner is not None
        return self._runner.fork(), self._recent.copy(), self._last, self._transcript.copy()

    def close(self) -> None:
        """Free the copy; the mark is of no use afterwards."""
        runner = self._runner
        self._runner = None
        if runner is not None:
            runner.close()
