"""What a chat template gave, as ids: its own words may be control tokens, and what the messages spell is text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from everlong.text import control_tokens as control
from everlong.text.tokenize import ids_behind, token_ids


@dataclass(frozen=True)
class Rendered:
    """A text that a template gave; `separator` stands inside what spells a control token in the messages."""

    text: str
    separator: str

    def behind(self, stand_in: str, begun: str = "") -> Rendered | None:
        """What stands behind a stand-in for a message that is not in the beginning `begun`; None if it is nowhere."""
        _, found, behind = self.text[len(common_start(self.text, begun)) :].partition(stand_in)
        return Rendered(behind, self.separator) if found else None

    def ids(self, tokenizer: Any, context: str = "") -> list[int]:
        """The ids as they are behind the text `context`."""
        if self.separator not in self.text:
            return ids_behind(tokenizer, context, self.text, allow_special=True)
        found: list[int] = []
        for n, (part, written) in enumerate(control.of(tokenizer).parts(self.text)):
            plain = part.replace(self.separator, "")
            if written:
                found += token_ids(tokenizer, plain, allow_special=True)
            else:
                found += _ids_inside(tokenizer, plain) if n else ids_behind(tokenizer, context, plain)
        return found


def common_start(a: str, b: str) -> str:
    """The longest beginning of both texts."""
    end = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:end]


def common_ids(a: list[int], b: list[int]) -> int:
    """How many ids two lists have in common at their beginnings."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _ids_inside(tokenizer: Any, text: str) -> list[int]:
    """The ids of `text` as they are where it follows a control token."""
    name = next(iter(control.of(tokenizer).tokens), "")
    if not name or token_ids(tokenizer, name + "a", allow_special=True)[1:] == token_ids(tokenizer, "a"):
        return token_ids(tokenizer, text)
    # The beginning of a text is treated in its own way: it is put behind something that it does not join.
    for context in ("\n", ".", "a", "0"):
        before = token_ids(tokenizer, context)
        whole = token_ids(tokenizer, context + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
    return token_ids(tokenizer, text)
