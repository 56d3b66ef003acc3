"""A text cut into statements: at the ends of sentences and paragraphs, and where a source begins.

Where a piece ends depends on its own tokens alone, so the pieces are the same however the text came in.
"""

from __future__ import annotations

from collections.abc import Iterator

from everlong.text.transcript import TokenRange, Transcript

LEAST_TOKENS = 8
MOST_TOKENS = 48
"""A piece ends with the first sentence that ends behind so many tokens, and after so many at the latest."""
_ENDS = tuple(".!?…。！？؟।")
_CLOSING = " \"'”’»)]}*_"
CUT = (LEAST_TOKENS, MOST_TOKENS, _ENDS, _CLOSING)
"""All that decides where pieces end."""


class Sentences:
    """Cuts transcripts of one tokenizer; remembers which of its tokens end a sentence."""

    def __init__(self) -> None:
        self._ends_by_id: dict[int, bool] = {}

    def cut(self, transcript: Transcript, first: int, upto: int) -> Iterator[TokenRange]:
        """The pieces behind `first` that are complete before `upto`."""
        for border in (*sorted({s.first for s in transcript.sources if s.first > first}), None):
            while border is None or first < border:
                end = self._end(transcript, first, border)
                if end is None or end > upto:
                    return
                yield TokenRange(first, end)
                first = end

    def _end(self, transcript: Transcript, first: int, border: int | None) -> int | None:
        """Where the piece that begins at `first` ends, at `border` at the latest; None while that is open."""
        latest = first + MOST_TOKENS if border is None else min(first + MOST_TOKENS, border)
        for end in range(first + LEAST_TOKENS, min(latest, len(transcript.ids)) + 1):
            if self._ends_sentence(transcript, end - 1):
                return end
        return latest if latest <= len(transcript.ids) else None

    def _ends_sentence(self, transcript: Transcript, token: int) -> bool:
        """Whether a sentence or a paragraph may end with this token; a line break alone may be a wrapped line."""
        number = transcript.ids[token]
        if number not in self._ends_by_id:
            text = transcript.text(token, token + 1)
            self._ends_by_id[number] = text.count("\n") > 1 or text.rstrip(_CLOSING).endswith(_ENDS)
        return self._ends_by_id[number]
