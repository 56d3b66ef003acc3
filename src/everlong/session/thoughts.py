"""Answers as a chat template shows them once another message follows: some templates leave out what was thought.

Then an answer is written in a copy of the session, and the session itself reads what the template shows of it. Whether
a template does so is found by trying: with each of its own strings as the end of a thought, with what it writes in
front of an answer, and with where it lets an answer begin.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from everlong.errors import CapabilityError
from everlong.text import control_tokens as control
from everlong.text.chat_template import ANSWERED, ASKED, OTHER, Message, Template, exchange, message, messages
from everlong.text.detokenize import Detokenizer
from everlong.text.rendered import Rendered, common_ids
from everlong.text.transcript import ANSWER, PROMPT

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream

_THOUGHT = "Everlong thinks"
_MOST_CHARS = 40
"""Longer strings of a template mark no thoughts."""


class Exchange:
    """A message, or several, in the place that they have in a stream, and the answer to them.

    `conversing`: they follow an answer; else they open a conversation, in a stream that has `begun` or not.
    """

    def __init__(self, template: Template, said: str | list[Message], conversing: bool, begun: bool) -> None:
        self._template = template
        self._said = messages(said)
        self._text = "".join(m["content"] for m in self._said)
        self._conversing = conversing
        self._begun = begun
        self._read = 0

    @cached_property
    def prompt(self) -> list[int]:
        """The ids of the message and of the start of the answer."""
        if self._conversing:
            return self._template.turn(self._said)
        return self._template.opening(self._said, self._begun)

    @cached_property
    def rewritten(self) -> bool:
        """Whether the template may show an answer in another way than it was written."""
        tokenizer = self._template.tokenizer
        return _rewrites(tokenizer, str(tokenizer.chat_template))

    @cached_property
    def lasting(self) -> int:
        """How many tokens of the prompt stay as they are, whatever is answered."""
        return common_ids(self.prompt, self._shown(ANSWERED)) if self.rewritten else len(self.prompt)

    def read_lasting(self, session: WritingStream) -> None:
        """Let a session read the beginning of the prompt that stays as it is; `read` then reads the rest."""
        session.feed(self.prompt[: self.lasting], source=PROMPT)
        self._read = self.lasting

    def read(self, session: WritingStream, written: list[int]) -> None:
        """Let a session read the message, as far as it has not yet, and what the template shows of its answer."""
        before, answer = self.to_read(written)
        session.feed(before[self._read :], source=PROMPT)
        if answer:
            session.feed(answer, answering=True, source=ANSWER)

    def to_read(self, written: list[int]) -> tuple[list[int], list[int]]:
        """What a session reads of the message, and what of its answer."""
        before, answer = self.earlier(written) if self.rewritten else ([], written)
        return [*self.prompt[: self.lasting], *before], answer

    def earlier(self, written: Sequence[int]) -> tuple[list[int], list[int]]:
        """What is read behind the `lasting` tokens of the prompt: up to the answer, and what is shown of the answer."""
        tokenizer = self._template.tokenizer
        separator = control.separator(self._text + self._template.system + Detokenizer(tokenizer).text([*written], []))
        answer = _spelt(tokenizer, written, separator)
        header = (_header(self._template) or "").strip()
        if control.of(tokenizer).pattern.search(header) and header in answer:
            answer = answer.rpartition(header)[2]
        try:
            ids = self._shown(answer, separator)
        except CapabilityError:
            if not header:
                raise
            # Such an answer has not come to what the template shows of one.
            ids = self._shown("", separator)
        before = self._shown(ANSWERED)
        begins = max(self.lasting, common_ids(ids, before))
        if ids[: self.lasting] != self.prompt[: self.lasting]:
            raise CapabilityError(
                "chat: the model's template shows the message otherwise behind this answer; say it anew"
            )
        return ids[self.lasting : begins], ids[begins:]

    def _shown(self, answer: str, separator: str | None = None) -> list[int]:
        """The ids of message and answer where another message follows, without what ends the answer."""
        separator = separator or control.separator(self._text + self._template.system)
        talk = [*self._said, message("assistant", answer), message("user", OTHER)]
        if self._conversing:
            whole = self._template.behind_answer([*exchange(), *talk], separator=separator)
        else:
            whole = self._template.render(talk, separator=separator)
        end = self._template.behind_answer([*exchange(), message("user", OTHER)], separator=separator).text
        if not whole.text.endswith(end):
            raise CapabilityError("chat: the model's template does not show how an answer ends; use generate")
        ids = Rendered(whole.text[: len(whole.text) - len(end)], separator).ids(
            self._template.tokenizer, ANSWERED if self._conversing else ""
        )
        return self._template.behind_closing(ids) if self._conversing else self._template.begun(ids, self._begun)


def _spelt(tokenizer: Any, written: Sequence[int], separator: str) -> str:
    """What was written, with `separator` inside what spells a control token and is none."""
    known = control.of(tokenizer)
    detokenizer = Detokenizer(tokenizer)
    text = ""
    at = 0
    for is_control, run in groupby(written, known.ids.__contains__):
        ids = list(run)
        said = detokenizer.text(ids, list(written[max(0, at - 8) : at]))
        text += said if is_control else known.broken(said, separator)
        at += len(ids)
    return text


@functools.lru_cache(maxsize=8)
def _rewrites(tokenizer: Any, source: str) -> bool:
    """Whether a template, whose text is `source`, shows some earlier answers in another way than they were written."""
    template = Template(tokenizer)
    header = _header(template)
    return header is None or bool(header.strip()) or any(_tried(template))


def _header(template: Template) -> str | None:
    """What the template puts between the start of an answer and an earlier answer; None where it starts otherwise."""
    prompt = template.render([message("user", ASKED)]).text
    shown = template.render([*exchange(), message("user", OTHER)]).text
    if not shown.startswith(prompt):
        return None
    return shown[len(prompt) :].partition(ANSWERED)[0]


def _tried(template: Template) -> Iterator[bool]:
    """For each string that may end a thought: whether what stands before it is left out of an earlier answer."""
    strings = {s.strip() for s in control.template_strings(template.tokenizer)}
    marks = sorted(
        s for s in strings if 3 <= len(s) <= _MOST_CHARS and re.search(r"\w", s) and re.search(r"[^\w\s]", s)
    )
    for close in marks:
        # Two strings are taken as the ends of one thought where they share a word, as <think> and </think> do.
        opens = [s for s in marks if s != close and _words(s) & _words(close)]
        for begin in ("", *opens):
            yield _left_out(template, f"{begin}{_THOUGHT}{close}{ANSWERED}")


def _left_out(template: Template, answer: str) -> bool:
    talk: list[Message] = [message("user", ASKED), message("assistant", answer), message("user", OTHER)]
    try:
        shown = template.render(talk).text
    except CapabilityError:
        return True
    return _THOUGHT not in shown and ANSWERED in shown


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{4,}", text))
