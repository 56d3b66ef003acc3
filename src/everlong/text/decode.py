"""Text from tokens as they come: whole characters only, and an end before a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everlong.text.detokenize import Detokenizer

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_HELD_TOKENS = 32
"""Tokens that may wait for the rest of a character (one has at most 4 bytes; runs of bytes are decoded together)."""
_KEPT_TOKENS = 8
"""Tokens decoded again in front of a new one, because some tokenizers treat a beginning in their own way."""


class Decoder:
    """The text of a sequence of tokens, given out as soon as its characters are whole.

    The pieces together equal `tokenizer.decode(ids, skip_special_tokens=True)`, with one exception: tokenizers
    that spell unknown characters in bytes decode a run of such bytes as a whole, so that broken bytes in it undo
    the good ones; characters that were given out stay. Without a tokenizer all text is empty.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0
        self._waiting = 0
        self._special = frozenset() if tokenizer is None else Detokenizer(tokenizer).special

    def spelt(self, token: int) -> str:
        """The name of a special token, which stands for no text; none of another token."""
        return self._tokenizer.decode([token], skip_special_tokens=False) if token in self._special else ""

    def push(self, token: int) -> str:
        """The new text that `token` completes."""
        if self._tokenizer is None:
            return ""
        self._ids.append(token)
        self._waiting += 1
        text = self._text(self._ids)
        whole = text.rstrip(_UNKNOWN)
        if self._waiting > _HELD_TOKENS and whole != text:
            whole = text[:-1]
        new = whole[self._given :]
        if new:
            self._given = len(whole)
            self._waiting = 0
        if whole == text and len(self._ids) > 4 * _KEPT_TOKENS:
            self._forget(text)
        return new

    def flush(self) -> str:
        """What is still held: the beginning of a character whose end never came, as replacement characters."""
        rest = self._text(self._ids)[self._given :] if self._ids else ""
        self._given += len(rest)
        return rest

    def _forget(self, text: str) -> None:
        """Keep the last tokens only, where they are decoded as they were."""
        ids = self._ids[-_KEPT_TOKENS:]
        kept = self._text(ids)
        if kept and text.endswith(kept) and not kept.startswith(_UNKNOWN):
            self._ids, self._given, self._waiting = ids, len(kept), 0

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopGuard:
    """Text up to the first stop string; what may be the beginning of one is held back.

    Special tokens are no part of the text, but a stop string may be one, or hold one: they are looked for by name.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._names: list[tuple[int, int]] = []
        """Where the names of special tokens stand in what is held."""
        self.stopped = False

    def push(self, text: str, name: str = "") -> str:
        """The part of the text so far that is sure to stand before any stop string; sets `stopped`.

        `name` is that of a special token behind the text.
        """
        name = name if any(name in stop for stop in self._stop) else ""
        if name:
            self._names.append((len(self._held) + len(text), len(self._held) + len(text) + len(name)))
        held = self._held + text + name
        at = min((i for i in map(held.find, self._stop) if i >= 0), default=-1)
        if at >= 0:
            self.stopped = True
            self._held = ""
            return self._shown(held[:at])
        sure = len(held) - self._overlap(held)
        shown = self._shown(held[:sure])
        self._held = held[sure:]
        self._names = [(max(0, a - sure), b - sure) for a, b in self._names if b > sure]
        return shown

    def flush(self) -> str:
        """What was held back."""
        held = self._shown(self._held)
        self._held = ""
        self._names = []
        return held

    def _shown(self, text: str) -> str:
        """The text without the names of special tokens."""
        for a, b in reversed(self._names):
            text = text[:a] + text[b:]
        return text

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)), 0)
