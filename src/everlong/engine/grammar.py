"""Answers of a given form: JSON of a schema, or a grammar, by llguidance, which says what token may come next."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from everlong.errors import CapabilityError, ConfigError, ModelError, one_line

Form = Literal["json_schema", "gbnf", "lark", "regex"]


_COMPACT = {"whitespace_flexible": False}
"""Where white space is free, small models write nothing else."""


@dataclass(frozen=True)
class Grammar:
    """What an answer is to look like: a JSON schema, or a grammar in one of three languages.

    CapabilityError without the package llguidance; ConfigError for a text that is no such grammar.
    """

    form: Form
    text: str

    def __post_init__(self) -> None:
        if importlib.util.find_spec("llguidance") is None:
            raise CapabilityError(f"{self.form}: needs a package that is not here; pip install 'everlong[grammar]'")
        try:
            wrong = _library().LLMatcher.validate_grammar(self.compiled)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise ConfigError(f"grammar: not a {self.form} that can be followed ({one_line(wrong, 160)})")

    @classmethod
    def of_schema(cls, schema: Any) -> Grammar:
        """JSON that a schema describes."""
        return cls("json_schema", json.dumps(schema, sort_keys=True))

    @property
    def compiled(self) -> str:
        """As llguidance takes it."""
        if self.form == "json_schema":
            return _library().LLMatcher.grammar_from_json_schema(self.text, overrides=_COMPACT)
        return _library().grammar_from(self.form, self.text)


class GrammarState:
    """How far an answer has come in its grammar."""

    def __init__(self, grammar: Grammar, tokenizer: Any, vocabulary: int, ends: Iterable[int]) -> None:
        self._tokens = _tokens(_Same(tokenizer), vocabulary, tuple(sorted(ends)))
        self._matcher = _library().LLMatcher(self._tokens, grammar.compiled)
        self._words = np.zeros((vocabulary + 31) // 32, dtype=np.int32)

    @property
    def over(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped()

    def allowed(self, vocabulary: int) -> Bool[Tensor, " vocabulary"]:
        """Which tokens may come next."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[:vocabulary]
        found = torch.zeros(vocabulary, dtype=torch.bool)
        found[: len(bits)] = torch.from_numpy(bits.astype(bool))
        return found

    def take(self, token: int) -> None:
        """Go on behind a token that was written."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"grammar: {one_line(self._matcher.get_error())}; give a simpler one")


def _library() -> Any:
    return importlib.import_module("llguidance")


class _Same:
    """A tokenizer by its identity, as a key."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.tokenizer is self.tokenizer

    def __hash__(self) -> int:
        return id(self.tokenizer)


@lru_cache(maxsize=4)
def _tokens(tokenizer: _Same, vocabulary: int, ends: tuple[int, ...]) -> Any:
    """The tokens as llguidance knows them; those that end an answer end its grammar."""
    try:
        return importlib.import_module("llguidance.hf").from_tokenizer(
            tokenizer.tokenizer, vocabulary, list(ends) or None
        )
    except (TypeError, ValueError) as error:
        raise CapabilityError(
            f"grammar: this model's tokenizer cannot be read by llguidance ({one_line(error, 120)}); leave it out"
        ) from error
