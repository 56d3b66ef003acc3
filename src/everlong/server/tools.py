"""Tools that a model may call: shown by its chat template, and the calls found again in what it wrote."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from everlong.server.errors import refused
from everlong.text.chat_template import Message, message

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
"""Around a call, in the form that Hermes, Qwen and many others write; others stay text."""


def tools_of(given: Sequence[Any] | None, choice: Any) -> list[dict[str, Any]]:
    """The tools that a request offers, as templates take them; ApiError for what is none, or a demanded call."""
    if not given or choice == "none":
        return []
    if choice not in (None, "auto"):
        raise refused("tool_choice", "a call cannot be promised here; use auto or none")
    for n, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise refused(f"tools.{n}", "expected an object with type function and a function that has a name")
    return list(given)


def of_response(given: Sequence[Any] | None, choice: Any) -> list[dict[str, Any]]:
    """The tools that a response is offered: functions, named without an object around them."""
    tools = []
    for n, tool in enumerate(given or ()):
        if choice != "none" and (not isinstance(tool, dict) or tool.get("type") != "function"):
            raise refused(f"tools.{n}", "only tools of type function can be offered here; leave out the others")
        named = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
        tools.append({"type": "function", "function": named})
    return tools_of(tools, choice)


def has_place(template: str) -> bool:
    """Whether a chat template shows tools."""
    return "tools" in template


def calls_of(given: Any) -> list[dict[str, Any]]:
    """The calls of an assistant's message, as templates take them, their arguments as objects where they are such."""
    calls = given if isinstance(given, list) else [{"function": given}]
    found = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else {}
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            found.append(_call(function["name"], function.get("arguments")))
    return found


def said(text: str) -> Message:
    """An answer as a message: its text, and the calls in it."""
    plain, calls = parted(text)
    return message("assistant", plain) | ({"tool_calls": calls} if calls else {})


def parted(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of an answer without its calls, and these; a call that is no JSON stays text."""
    plain, calls = _parted(text)
    return (plain.strip() if calls else plain), calls


def _parted(text: str) -> tuple[str, list[dict[str, Any]]]:
    plain = ""
    calls: list[dict[str, Any]] = []
    while OPEN in text:
        before, _, rest = text.partition(OPEN)
        inner, closed, after = rest.partition(CLOSE)
        call = _read(inner) if closed or not after else None
        if call is None:
            plain += before + OPEN
            text = rest
            continue
        calls.append(call)
        plain += before
        text = after
    return plain + text, calls


def flattened(messages: Sequence[Message]) -> list[Message]:
    """The messages with their calls as text, for templates that have no place for them."""
    found = []
    for m in messages:
        calls = [call["function"] for call in m.get("tool_calls", ())]
        texts = [m["content"], *(f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in calls)]
        found.append({key: m[key] for key in m if key != "tool_calls"} | {"content": "\n".join(filter(None, texts))})
    return found


def shown(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls as OpenAI's clients take them."""
    return [
        {
            "index": n,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for n, call in enumerate(calls)
    ]


class CallText:
    """The text of an answer in pieces, without what begins, or may begin, a call."""

    def __init__(self) -> None:
        self.text = ""
        self._given = 0

    def take(self, piece: str) -> str:
        """What of the text so far is no call, and was not given yet."""
        self.text += piece
        at = self.text.find(OPEN)
        if at < 0:
            at = next((len(self.text) - n for n in range(len(OPEN) - 1, 0, -1) if self.text.endswith(OPEN[:n])), -1)
        return self._give(len(self.text) if at < 0 else at)

    def rest(self) -> tuple[str, list[dict[str, Any]]]:
        """At the end: the text that is still to be given, and the calls."""
        plain, calls = _parted(self.text)
        return plain[self._given :], calls

    def _give(self, end: int) -> str:
        found = self.text[self._given : end]
        self._given = max(self._given, end)
        return found


def _call(name: str, arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {"arguments": arguments}
    return {"type": "function", "function": {"name": name, "arguments": arguments or {}}}


def _read(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    return _call(found["name"], found.get("arguments", found.get("parameters")))
