"""What a tokenizer's chat template puts around messages, found by rendering short made-up conversations.

A template renders whole conversations, and an endless one cannot be rendered anew at each turn. What it adds
for one turn is the difference between renderings of a short conversation of the same form.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from everlong.errors import CapabilityError, one_line
from everlong.session.text import ids_behind, token_ids

_ASKED, _OTHER, _ANSWERED = "Everlong asks.", "Who knows it?", "Everlong answers."
"""Stand-ins for messages; a template may trim them but must show them."""


class Template:
    """The ids around messages in the template of `tokenizer`, with an optional system prompt.

    CapabilityError where the tokenizer has no template, or has one that refuses such a conversation.
    """

    def __init__(self, tokenizer: Any, system: str | None = None) -> None:
        if tokenizer is None or not getattr(tokenizer, "chat_template", None):
            raise CapabilityError(
                "chat: the model's tokenizer has no chat template; take an instruction-tuned model, or use generate"
            )
        self._tokenizer = tokenizer
        self._system = [] if system is None else [_message("system", system)]
        self._after_answer = self._closing()

    @property
    def system_tokens(self) -> int:
        """How many tokens stand in front of the first user message: those of the system prompt.

        Where the template renders no system prompt alone, its words around the user message count too.
        """
        first, other = (self._render([_message("user", text)], prompt=True) for text in (_ASKED, _OTHER))
        try:
            alone = self._render([]) if self._system else ""
        except CapabilityError:
            alone = ""
        shown = bool(self._system) and self._system[0]["content"].strip() in alone and first.startswith(alone)
        ids = (token_ids(self._tokenizer, text) for text in (first, alone if shown else other))
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False)))

    def opening(self, text: str) -> list[int]:
        """The ids of a conversation's beginning: system prompt, first user message, start of the answer."""
        return token_ids(self._tokenizer, self._render([_message("user", text)], prompt=True))

    def around(self) -> tuple[list[int], list[int]]:
        """The ids before the first user message, system prompt included, and those behind it, start of the answer."""
        before, _, after = self._render([_message("user", _ASKED)], prompt=True).partition(_ASKED)
        return token_ids(self._tokenizer, before), ids_behind(self._tokenizer, _ASKED, after)

    def turn(self, text: str) -> list[int]:
        """The ids of a later user message and of the start of its answer, behind what `closing` gives."""
        messages = [*_exchange(), _message("user", text)]
        behind = self._behind_answer(self._render(messages, prompt=True))
        new = behind.removeprefix(self._after_answer)
        return ids_behind(self._tokenizer, _ANSWERED + self._after_answer, new)

    def closing(self) -> list[int]:
        """The ids behind an answer."""
        return ids_behind(self._tokenizer, _ANSWERED, self._after_answer)

    def end_tokens(self) -> tuple[int, ...]:
        """The special token that the template puts right behind an answer: a model may end one with it."""
        special = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return tuple(i for i in self.closing()[:1] if i in special)

    def _closing(self) -> str:
        """The text behind an answer, whether or not a message follows."""
        last = self._behind_answer(self._render(_exchange()))
        followed = self._behind_answer(self._render([*_exchange(), _message("user", _OTHER)], prompt=True))
        return _common_start(last, followed)

    def _behind_answer(self, text: str) -> str:
        """What stands behind the stand-in's answer in a rendering (a system prompt or a question may name it too)."""
        begun = _common_start(text, self._render([_message("user", _ASKED)], prompt=True))
        _, found, behind = text[len(begun) :].partition(_ANSWERED)
        if not found:
            raise CapabilityError("chat: the model's template does not show the answer as it is; use generate")
        return behind

    def _render(self, messages: list[dict[str, str]], prompt: bool = False) -> str:
        """The text of the system prompt and `messages`, with the start of an answer if `prompt`."""
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                [*self._system, *messages], tokenize=False, add_generation_prompt=prompt
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            what = "a system prompt" if self._system else "a conversation"
            raise CapabilityError(
                f"chat: the model's template refuses {what} ({one_line(error, 100)}); "
                + ("leave the system prompt out" if self._system else "use generate")
            ) from error


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _exchange() -> list[dict[str, str]]:
    return [_message("user", _ASKED), _message("assistant", _ANSWERED)]


def _common_start(a: str, b: str) -> str:
    end = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:end]
