"""Control tokens in text: what spells one stands for its letters, unless a chat template wrote it.

Control tokens are the special tokens of a tokenizer, and those of its other added tokens that its chat template writes.
Where a text spells one, it is tokenised by a copy of the tokenizer that knows all the same tokens by the same ids, the
control tokens by names that no text holds. (Leaving special tokens out of the splitting alone does not do: unigrams and
words find them in the vocabulary.)
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError
from tokenizers import Tokenizer

from everlong.errors import CapabilityError, InputError, one_line

_SEPARATORS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that stand for no character in any text that is exchanged."""
_LEAST_CHARS = 3
"""Added tokens that are not special and shorter than this are no control tokens."""


class Control:
    """The control tokens of `tokenizer`; `of` gives it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        written = template_text(tokenizer)
        self.tokens = {t.content: t for t in added.values() if t.content.strip() and _controls(t, written)}
        ids = {n for n, t in added.items() if t.content in self.tokens}
        # The token for what is unknown comes from text that spells no token at all.
        self.ids = frozenset(ids - _unknown_ids(tokenizer))
        names: list[str] = sorted((name for name in self.tokens if len(name) > 1), key=len, reverse=True)
        self.pattern = re.compile("|".join(re.escape(name) for name in names) or "(?!)")
        self._unknown = re.compile("|".join(re.escape(t.content) for n, t in added.items() if n in ids - self.ids))

    def spelt(self, text: str, ids: list[int]) -> bool:
        """Whether `text`, tokenised as `ids`, spells a control token."""
        unknown = bool(self._unknown.pattern) and self._unknown.search(text) is not None
        return unknown or not self.ids.isdisjoint(ids)

    def encoded(self, text: str) -> tuple[list[int], Any]:
        """The ids of `text` where no part of it is a control token, and the encoding with their characters, if any.

        CapabilityError for a tokenizer that cannot spell one out.
        """
        if self._plain is None:
            ids = self._split(text)
            encoding = None
            if not self.ids.isdisjoint(ids):
                ids = [n for part in self.broken(text, _SEPARATORS[0]).split(_SEPARATORS[0]) for n in self._split(part)]
        else:
            encoding = self._plain.encode(text, add_special_tokens=False)
            ids = list(encoding.ids)
        if left := self.ids.intersection(ids):
            name = self._tokenizer.added_tokens_decoder[min(left)].content
            raise CapabilityError(
                f"text: holds {name!r}, which this tokenizer cannot read as plain text; take it out, or let it be the "
                "control token (--allow-special, allow_special=True)"
            )
        return ids, encoding

    def broken(self, text: str, separator: str) -> str:
        """The text with `separator` inside whatever spells a control token."""
        return self.pattern.sub(lambda found: found[0][0] + separator + found[0][1:], text)

    def parts(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """The text that a template gave, cut at its control tokens (True), without the spaces that these swallow."""
        cuts = list(self.pattern.finditer(rendered))
        at = 0
        for n, cut in enumerate([*cuts, None]):
            run = rendered[at : len(rendered) if cut is None else cut.start()]
            run = run.lstrip() if n and self.tokens[cuts[n - 1][0]].rstrip else run
            run = run.rstrip() if cut is not None and self.tokens[cut[0]].lstrip else run
            if run:
                yield run, False
            if cut is not None:
                yield cut[0], True
                at = cut.end()

    @cached_property
    def _plain(self) -> Any:
        """The copy that has the control tokens by other names; None for a tokenizer written in Python."""
        if not getattr(self._tokenizer, "is_fast", False):
            return None
        backend = self._tokenizer.backend_tokenizer
        salt = secrets.token_hex(8)
        names = {name: f"{_SEPARATORS[0]}{salt} {n}{_SEPARATORS[0]}" for n, name in enumerate(self.tokens)}
        copy = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), names)))
        copy.no_truncation()
        copy.no_padding()
        if any(copy.token_to_id(new) != backend.token_to_id(old) for old, new in names.items()):
            raise CapabilityError("text: spells a control token that this tokenizer cannot read as plain text; drop it")
        return copy

    def _split(self, text: str) -> list[int]:
        """The ids that a tokenizer written in Python gives where it is to know no added tokens."""
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return list(self._tokenizer(text, split_special_tokens=True, **options)["input_ids"])


def of(tokenizer: Any) -> Control:
    """The control tokens of a tokenizer, found once."""
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else 0
    return _of(tokenizer, size, str(getattr(tokenizer, "chat_template", None)))


@functools.lru_cache(maxsize=8)
def _of(tokenizer: Any, size: int, template: str) -> Control:
    """`size` and `template` tell a tokenizer that was changed from what it was."""
    return Control(tokenizer)


def separator(text: str) -> str:
    """A code point that is not in `text`."""
    for found in _SEPARATORS:
        if found not in text:
            return found
    raise InputError(
        f"text: holds all code points from {_SEPARATORS[0]!r} to {_SEPARATORS[-1]!r}; take one of them out"
    )


def template_text(tokenizer: Any) -> str:
    """What the chat template may write by itself: its text and the strings in it, NUL between them."""
    return "\0".join(template_strings(tokenizer))


def template_strings(tokenizer: Any) -> list[str]:
    """The parts of the chat template's own text, and the strings in its expressions; none without a template."""
    template = getattr(tokenizer, "chat_template", None)
    sources = template.values() if isinstance(template, dict) else [template] if template else []
    try:
        found = [part for source in sources for part in Environment().lex(source)]
    except TemplateError as error:
        raise CapabilityError(
            f"chat: the model's template cannot be read ({one_line(error, 100)}); mend chat_template in its folder"
        ) from error
    return [text[1:-1] if kind == "string" else text for _, kind, text in found if kind in ("data", "string")]


def _controls(token: Any, written: str) -> bool:
    """Whether an added token is a control token, in view of what the chat template has `written` in it."""
    if token.special:
        return True
    return len(token.content) >= _LEAST_CHARS and not token.content.strip().isalnum() and token.content in written


def _unknown_ids(tokenizer: Any) -> set[int]:
    """The token for unknown text, unless it ends or begins texts as well."""
    others = {getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return set() if unknown is None or unknown in others else {unknown}


def _renamed(facts: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer's description with other names for some tokens, in their places."""
    model = facts["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): n for piece, n in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _makes(pair, names)]
    for token in facts["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    return facts


def _makes(pair: str | list[str], names: dict[str, str]) -> bool:
    """Whether a merge takes or gives one of these tokens."""
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return left in names or right in names or left + right in names
