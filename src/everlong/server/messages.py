"""The messages of a request as a chat template takes them, and the hashes by which a conversation is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from everlong.errors import CapabilityError
from everlong.server.errors import ApiError, refused
from everlong.server.tools import calls_of, flattened
from everlong.text.chat_template import Message, message

_ROLES = {"developer": "system", "function": "tool", "latest_reminder": "system"}
_KNOWN = ("system", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


def messages_of(given: Any, param: str = "messages") -> list[Message]:
    """The messages of a request, each with its role and its text; ApiError names what is wrong with which."""
    if not isinstance(given, list) or not given:
        raise refused(param, "expected a list of at least one message, each with role and content")
    return [_message(m, f"{param}.{n}") for n, m in enumerate(given)]


def _message(given: Any, param: str) -> Message:
    if not isinstance(given, dict):
        raise refused(param, f"got {type(given).__name__}, expected an object with role and content")
    role = given.get("role")
    role = _ROLES.get(str(role), role)
    if role not in _KNOWN:
        raise refused(f"{param}.role", f"got {given.get('role')!r}, expected {', '.join(_KNOWN)} or developer")
    text = text_of(given.get("content"), f"{param}.content")
    calls = given.get("tool_calls") or given.get("function_call")
    found = message(role, text)
    if calls and role == "assistant":
        found["tool_calls"] = calls_of(calls)
    return found | {"quoted": "yes"} if role == "assistant" else found


def text_of(content: Any, param: str) -> str:
    """The text of a message's content: a text, parts of one, or null."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise refused(param, f"got {type(content).__name__}, expected a text, a list of parts, or null")
    return "".join(_part(part, f"{param}.{n}") for n, part in enumerate(content))


def _part(part: Any, param: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if not isinstance(part, dict) or kind not in _TEXT_PARTS:
        raise refused(param, f"a part of type {kind!r} cannot be read, the model reads text only; send it as text")
    text = part.get("text", part.get("refusal"))
    if text is not None and not isinstance(text, str):
        raise refused(f"{param}.text", f"got {type(text).__name__}, expected a text")
    return text or ""


def fitted(messages: Sequence[Message], renders: Callable[[list[Message]], Any]) -> list[Message]:
    """The messages with their roles merged as far as the template needs it, which `renders` finds out."""
    tried: list[CapabilityError] = []
    for fit in (list, _merged, _without_tools, _without_systems):
        found = fit(messages)
        try:
            renders(found)
        except CapabilityError as error:
            tried.append(error)
        else:
            return found
    raise ApiError(400, f"messages: {tried[0]}", "messages")


def _merged(messages: Iterable[Message]) -> list[Message]:
    """Messages of one role behind each other as one; those of the system all at the beginning."""
    systems = [m for m in messages if m["role"] == "system"]
    found: list[Message] = []
    for m in [*systems, *(m for m in messages if m["role"] != "system")]:
        if found and found[-1]["role"] == m["role"] and "tool_calls" not in (found[-1] | m):
            found[-1] = found[-1] | {"content": f"{found[-1]['content']}\n\n{m['content']}"}
        else:
            found.append(m)
    return found


def _without_tools(messages: Iterable[Message]) -> list[Message]:
    """The results of tools as words of the user's, and what was called as words of the answer."""
    return _merged(
        message("user", f"Result of the tool:\n{m['content']}") if m["role"] == "tool" else m
        for m in flattened(list(messages))
    )


def _without_systems(messages: Iterable[Message]) -> list[Message]:
    """The system's words in front of what the user says next; an answer does not come first."""
    found = [message("user", m["content"]) if m["role"] == "system" else m for m in _without_tools(messages)]
    if found and found[0]["role"] == "assistant":
        found.insert(0, message("user", "(The conversation goes on.)"))
    return _merged(found)


def chain(messages: Iterable[Message], begun: str = "") -> list[str]:
    """For each message the hash of all up to it: what a conversation is known by. `begun` is that of the ones before.

    White space at the ends of a text does not count: clients trim it.
    """
    found = []
    for m in messages:
        text = f"{begun}\x00{m['role']}\x00{m['content'].strip()}"
        if calls := m.get("tool_calls"):
            text += f"\x00{json.dumps(calls, sort_keys=True)}"
        begun = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        found.append(begun)
    return found
