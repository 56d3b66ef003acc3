"""What a tokenizer's chat template puts around messages, found by rendering short made-up conversations.

A template renders whole conversations, and an endless one cannot be rendered anew at each turn. What it adds
for one turn is the difference between renderings of a short conversation of the same form, compared as tokens. Control
tokens come from the template alone: what a message or a system prompt spells is text, unless `allow_special` says else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from everlong.errors import CapabilityError, one_line
from everlong.text import control_tokens as control
from everlong.text.rendered import Rendered, common_ids
from everlong.text.tokenize import special_ids, token_ids

ASKED = "Everlong asks."
OTHER = "Who knows it?"
ANSWERED = "Everlong answers."
"""Stand-ins for messages; a template may trim them but must show them."""
Message = dict[str, Any]
"""A role, a content that is a text, and what else a template may show."""


class Template:
    """The ids around messages in the template of `tokenizer`, with an optional system prompt.

    CapabilityError where the tokenizer has no template, or has one that refuses such a conversation.
    """

    def __init__(
        self,
        tokenizer: Any,
        system: str | None = None,
        allow_special: bool = False,
        tools: Sequence[dict[str, Any]] = (),
    ) -> None:
        if tokenizer is None or not getattr(tokenizer, "chat_template", None):
            raise CapabilityError(
                "chat: the model's tokenizer has no chat template; take an instruction-tuned model, or use generate"
            )
        self.tokenizer = tokenizer
        self._allow_special = allow_special
        self._tools = list(tools)
        self.system = system or ""
        self._system = [] if system is None else [message("system", system)]
        self._last = self.behind_answer(exchange(), prompt=False).ids(tokenizer, ANSWERED)
        followed = self.behind_answer([*exchange(), message("user", OTHER)]).ids(tokenizer, ANSWERED)
        self._closing = followed[: common_ids(self._last, followed)]

    @property
    def system_tokens(self) -> int:
        """How many tokens stand in front of the first user message: those of the system prompt.

        Where the template renders no system prompt alone, its words around the user message count too.
        """
        first, other = (self.render([message("user", text)]) for text in (ASKED, OTHER))
        try:
            alone = self.render([], prompt=False).text if self._system else ""
        except CapabilityError:
            alone = ""
        shown = bool(self._system) and first.text.startswith(alone)
        shown = shown and self._broken(self._system, first.separator)[0]["content"].strip() in alone
        against = Rendered(alone, first.separator) if shown else other
        return common_ids(first.ids(self.tokenizer), against.ids(self.tokenizer))

    def opening(self, said: str | list[Message], begun: bool = False) -> list[int]:
        """The ids of a conversation's beginning: system prompt, first user message (or several), start of the answer.

        `begun`: in a stream that has begun, so that no token stands in front which begins a text.
        """
        return self.begun(self.render(messages(said)).ids(self.tokenizer), begun)

    def begun(self, ids: list[int], begun: bool = True) -> list[int]:
        """The ids of a conversation's beginning where they stand in a stream that has `begun`."""
        while begun and ids and ids[0] in self._beginning:
            ids = ids[1:]
        return ids

    def around(self) -> tuple[list[int], list[int]]:
        """The ids before the first user message, system prompt included, and those behind it, start of the answer."""
        whole = self.render([message("user", ASKED)])
        before, _, after = whole.text.partition(ASKED)
        front = Rendered(before, whole.separator)
        back = Rendered(after, whole.separator)
        return front.ids(self.tokenizer), back.ids(self.tokenizer, ASKED)

    def turn(self, said: str | list[Message]) -> list[int]:
        """The ids of a later user message (or several) and of the start of its answer, behind what `closing` gives."""
        return self.behind_closing(self.behind_answer([*exchange(), *messages(said)]).ids(self.tokenizer, ANSWERED))

    def behind_closing(self, ids: list[int]) -> list[int]:
        """The ids behind an answer without those of `closing`."""
        if ids[: len(self._closing)] != self._closing:
            raise CapabilityError("chat: the model's template ends an answer in another way before this message")
        return ids[len(self._closing) :]

    def with_text(self, new: list[int], before: list[int], text: str) -> list[int]:
        """The ids `new` of a message OTHER, with `before` and `text` in its place."""
        shown = token_ids(self.tokenizer, OTHER)
        at = next((n for n in range(len(new)) if new[n : n + len(shown)] == shown), None)
        if at is None:
            raise CapabilityError("chat: the model's template does not show a message as it is; use again=0")
        said = token_ids(self.tokenizer, f"\n\n{text}", allow_special=self._allow_special)
        return [*new[:at], *before, *said, *new[at + len(shown) :]]

    def closing(self) -> list[int]:
        """The ids behind an answer, as far as they are the same whether or not a message follows."""
        return list(self._closing)

    def end_tokens(self) -> tuple[int, ...]:
        """The control token that the template puts right behind a last answer: a model may end one with it."""
        known = control.of(self.tokenizer).ids
        return tuple(i for i in self._last[:1] if i in known)

    def behind_answer(self, messages: list[Message], prompt: bool = True, separator: str | None = None) -> Rendered:
        """What stands behind the stand-in's answer in a rendering (a system prompt or a question may name it too)."""
        whole = self.render(messages, prompt, separator)
        behind = whole.behind(ANSWERED, self.render([message("user", ASKED)], separator=whole.separator).text)
        if behind is None:
            raise CapabilityError("chat: the model's template does not show the answer as it is; use generate")
        return behind

    def render(self, messages: list[Message], prompt: bool = True, separator: str | None = None) -> Rendered:
        """The text of the system prompt and `messages`, with the start of an answer if `prompt`."""
        whole = [*self._system, *messages]
        separator = separator or control.separator(json.dumps([whole, self._tools], ensure_ascii=False))
        tools = {"tools": self._apart(self._tools, separator)} if self._tools else {}
        try:
            text = self.tokenizer.apply_chat_template(
                self._broken(whole, separator), tokenize=False, add_generation_prompt=prompt, **tools
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            what = "a system prompt" if self._system else "a conversation"
            raise CapabilityError(
                f"chat: the model's template refuses {what} ({one_line(error, 100)}); "
                + ("leave the system prompt out" if self._system else "use generate")
            ) from error
        return Rendered(text, separator)

    def _broken(self, messages: list[Message], separator: str) -> list[Message]:
        """The messages with `separator` inside what spells a control token, but for answers that are not `quoted`."""
        if self._allow_special:
            return messages
        return [m if m["role"] == "assistant" and "quoted" not in m else self._apart(m, separator) for m in messages]

    def _apart(self, what: Any, separator: str) -> Any:
        """Anything as JSON has it, `separator` inside what spells a control token in its texts."""
        if self._allow_special:
            return what
        if isinstance(what, str):
            return control.of(self.tokenizer).broken(what, separator)
        if isinstance(what, dict):
            return {self._apart(key, separator): self._apart(value, separator) for key, value in what.items()}
        return [self._apart(part, separator) for part in what] if isinstance(what, list) else what

    @cached_property
    def _beginning(self) -> set[int]:
        """The tokens that begin a text, and nothing but a text: neither a message nor an answer."""
        begins = getattr(self.tokenizer, "bos_token_id", None)
        found = {*special_ids(self.tokenizer)[0], *([] if begins is None else [int(begins)])}
        return found.difference(self.turn(OTHER))


def message(role: str, text: str) -> Message:
    """A message as templates take it."""
    return {"role": role, "content": text}


def messages(said: str | list[Message]) -> list[Message]:
    """What was said as messages: a text is one of the user's."""
    return [message("user", said)] if isinstance(said, str) else said


def exchange() -> list[Message]:
    """A question and its answer, stand-ins both."""
    return [message("user", ASKED), message("assistant", ANSWERED)]
