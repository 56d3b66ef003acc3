"""The text of tokens as it reads behind the tokens before them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Decodes runs of tokens, special ones spelt out; without a tokenizer all text is empty."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def special(self) -> frozenset[int]:
        """The ids that decoding leaves out where it is asked to."""
        if self._tokenizer is None:
            return frozenset()
        added = self._tokenizer.added_tokens_decoder
        return frozenset(n for n, token in added.items() if token.special) | frozenset(self._tokenizer.all_special_ids)

    def text(self, ids: list[int], before: list[int]) -> str:
        """The text that `ids` add to the text of the ids `before` them."""
        if not ids or self._tokenizer is None:
            return ""
        # As few of them as show their text: a space that belongs to a beginning is then not taken for one of `ids`.
        for count in range(1, len(before) + 1):
            context = before[-count:]
            said = self._decoded(context)
            if said and not said.startswith(_UNKNOWN):
                return self._decoded(context + ids)[len(said) :]
        said = self._decoded(before)
        return self._decoded(before + ids)[len(said) :]

    def begins_with_space(self, token: int) -> bool:
        """Whether a token is spelt with a space in front, which decoding leaves out at a beginning."""
        if self._tokenizer is None:
            return False
        return str(self._tokenizer.convert_ids_to_tokens([token])[0]).startswith("▁")

    def _decoded(self, ids: list[int]) -> str:
        if not ids:
            return ""
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
