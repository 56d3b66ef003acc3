"""A stream that is asked about what it read: replies, passages, citations, and what is pinned for them."""

from __future__ import annotations

from typing import Any

from everlong.engine import images
from everlong.engine.sampling import Sampling
from everlong.engine.writing import WritingStream
from everlong.errors import CapabilityError
from everlong.methods.blocks.pins import Pin
from everlong.session import asking, pinning
from everlong.session.asking import Again, Posed
from everlong.session.citations import drawn_on
from everlong.session.recall import Recall, Recalled
from everlong.session.reply import Reply
from everlong.session.search import search
from everlong.text.inputs import Shown
from everlong.text.transcript import GONE, Citation, Source


class AnsweringStream(WritingStream):
    """A stream that answers questions about what it read."""

    def ask(
        self, question: str, again: Again | None = None, raw: bool = False, keep: bool = False, **sampling: Any
    ) -> Reply:
        """The reply to a question about what was read, as an iterator of pieces of text; `text` is all of it.

        `again`: how many passages are read again at most (default 2, "auto" 4), none that is far behind the best; 0
        takes the blocks' way: recalled blocks beside the window. `raw`: the question is a text to be continued, without
        the chat template. The session stays as it is, unless it is to `keep` question and reply (not the passages).
        `sampling` as in `generate`. For a method without recall the question is read behind the stream.
        """
        Sampling(**sampling)
        posed = asking.pose(self, question, again, raw, keep)
        return Reply(self, posed, question, raw, keep, **sampling)

    def pose(self, question: str, again: Again | None = None, raw: bool = False) -> Posed:
        """A question put as `ask` puts it, and a session that is ready to answer; a context manager that closes it."""
        return asking.pose(self, question, again, raw)

    def recall(self, question: str) -> Recall:
        """The passages that come back for a question, best first, without an answer."""
        return asking.recall(self, question)

    def search(self, words: str, top: int = 5) -> list[Recalled]:
        """The passages that hold most of `words`, weighed by how rare they are; the model computes nothing."""
        if not self.remembers:
            raise CapabilityError(f"search: {self.method} keeps no record of what it read; use everlong.Blocks")
        ids = asking.question_ids(self, words)
        return search(self.transcript, self.word_classes, ids, words, top) if self.seen_tokens else []

    def citations(self, top: int = 5) -> list[Citation]:
        """Where the last answer drew on what is stored: passages by falling share of its attention.

        One passage for each stored block (two where sources meet in it), with its source, characters and text.
        CapabilityError for a method that stores nothing.
        """
        return drawn_on(self, top)

    def pin(
        self,
        what: str | tuple[int, int],
        start: int | None = None,
        end: int | None = None,
        always: bool = True,
        keep: bool = True,
    ) -> Pin:
        """Pin a source, its characters `start` .. `end - 1`, or the tokens (first, end); what was pinned.

        `always`: every token that is read or written from now on attends to the blocks that touch the span. `keep`:
        these blocks are never given up for room. Blocks that are sealed later are held from then on. ConfigError
        where more blocks would always be attended to than top_k.
        """
        return pinning.pin(self, what, start, end, always, keep)

    def unpin(self, what: str | tuple[int, int], start: int | None = None, end: int | None = None) -> int:
        """Take away the pins that share a token with the span, given as for `pin`; how many."""
        return pinning.unpin(self, what, start, end)

    def forget_source(self, source: Source) -> None:
        """Drop the stored blocks that lie wholly in `source`; what was read after it keeps traces of it."""
        for row in self.stored("forget").rows:
            row.drop(row.blocks_within(*self.transcript.bounds(source)))
        source.digest = GONE
        source.done = False
        source.lines = ""

    def _feed_images(self, x: Shown, answering: bool, source: str) -> int:
        """Read texts and images, each image wholly or not at all and as a source of its own."""
        return images.feed(self, x, answering, source)

    def _hold(self, question: list[int]) -> None:
        """Let what is read next attend to what the question recalls."""
        asking.hold(self, question)
