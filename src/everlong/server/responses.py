"""OpenAI's responses: what is asked, and the objects and events that come back."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everlong.server import tools
from everlong.server.asked import Answered, Asked
from everlong.server.errors import ApiError, refused
from everlong.server.forms import of_format
from everlong.server.messages import messages_of
from everlong.server.openai import SamplingFields
from everlong.server.settings import Limits
from everlong.text.chat_template import Message, message

MOST_CHARS = 64 * 2**20
"""Of the conversations that responses can be gone on from, all together; those used longest ago are given up."""


class ResponseFields(SamplingFields):
    """A request for a response."""

    input: Any = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    max_output_tokens: int | None = None
    text: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    background: bool | None = None
    metadata: dict[str, Any] | None = None

    def asked(self, limits: Limits, before: Sequence[Message]) -> Asked:
        """What is wanted, behind the messages before; ApiError for what cannot be done."""
        form = of_format((self.text or {}).get("format"), "text.format")
        offered = tools.of_response(self.tools, self.tool_choice)
        if self.background:
            raise refused("background", "responses are written while one waits; leave it out")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise refused("max_output_tokens", f"got {self.max_output_tokens}, expected at least 1")
        sampling = self.model_copy(update={"max_tokens": self.max_output_tokens}).settings(limits)
        if form is not None:
            sampling["grammar"] = form
        instructions = [message("system", self.instructions)] if self.instructions else []
        return Asked([*instructions, *before, *input_messages(self.input)], sampling, tools=offered)

    @property
    def session_name(self) -> str | None:
        """The session that is named, as a conversation or by the field of that name."""
        named = self.conversation
        if isinstance(named, dict):
            named = named.get("id")
            if not isinstance(named, str):
                raise refused("conversation", "expected a name, or an object with an id")
        return named or self.session


def input_messages(given: Any) -> list[Message]:
    """The messages of an input: a text, or a list of items."""
    if isinstance(given, str):
        return [message("user", given)]
    if not isinstance(given, list):
        raise refused("input", f"got {type(given).__name__}, expected a text or a list of messages")
    items = [_item(item, f"input.{n}") for n, item in enumerate(given) if not _is_thought(item)]
    return messages_of(_joined(items), "input")


def _joined(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls as part of the answer that they stand in, which a response gives as items of their own."""
    found: list[dict[str, Any]] = []
    for item in items:
        if found and "tool_calls" in item and "type" not in item and found[-1].get("role") == "assistant":
            calls = [*(found[-1].get("tool_calls") or ()), *item["tool_calls"]]
            found[-1] = found[-1] | {"tool_calls": calls}
        else:
            found.append(item)
    return found


def _is_thought(item: Any) -> bool:
    """Whether an item is what a model has thought, which is no part of the conversation."""
    return isinstance(item, dict) and item.get("type") == "reasoning"


def _item(item: Any, param: str) -> Any:
    if not isinstance(item, dict):
        raise refused(param, f"got {type(item).__name__}, expected a message")
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return {"role": "tool", "content": str(item.get("output", ""))}
    if kind == "function_call":
        return {"role": "assistant", "tool_calls": [{"function": item}]}
    if kind != "message":
        raise refused(f"{param}.type", f"an item of type {kind!r} cannot be read; send messages")
    return item


@dataclass(frozen=True)
class KeptResponse:
    """A response with all messages up to its answer, and whose it is."""

    body: dict[str, Any]
    messages: Sequence[Message]
    owner: str

    @property
    def chars(self) -> int:
        """How long its messages are together."""
        return sum(len(m["content"]) for m in self.messages)


class Responses:
    """The responses that can be gone on from, and those that are being written."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self._chars = 0

    def keep(self, response: KeptResponse) -> None:
        """Keep a response; those used longest ago give way."""
        self._kept[response.body["id"]] = response
        self._chars += response.chars
        while self._chars > MOST_CHARS and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._chars -= gone.chars

    def get(self, identity: str, owner: str, param: str | None = None) -> KeptResponse:
        """A response of this owner; ApiError (404) for one that is not there."""
        found = self._kept.get(identity)
        if found is None or found.owner != owner:
            raise ApiError(
                404, f"response {identity!r}: is not kept here (any more); send its messages", param, "not_found"
            )
        self._kept.move_to_end(identity)
        return found

    def delete(self, identity: str, owner: str) -> None:
        """Forget a response."""
        self._chars -= self.get(identity, owner).chars
        del self._kept[identity]


def body(identity: str, model: str, fields: ResponseFields, status: str = "in_progress") -> dict[str, Any]:
    """A response object without what was written."""
    return {
        "id": identity,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": fields.previous_response_id,
        "temperature": fields.temperature,
        "tool_choice": fields.tool_choice or "auto",
        "tools": fields.tools or [],
        "top_p": fields.top_p,
        "usage": None,
    }


def item(identity: str, text: str | None, status: str) -> dict[str, Any]:
    """The message that was written; without a text one that has not begun."""
    content = [] if text is None else [part(text)]
    return {"id": f"msg_{identity[5:]}", "type": "message", "status": status, "role": "assistant", "content": content}


def part(text: str) -> dict[str, Any]:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(call: dict[str, Any]) -> dict[str, Any]:
    """A call of a tool, as `tools.shown` gives it, as an item."""
    identity = call["id"]
    facts = {"id": f"fc_{identity[5:]}", "type": "function_call", "status": "completed", "call_id": identity}
    return facts | call["function"]


def completed(begun: dict[str, Any], asked: Asked, answered: Answered, cancelled: bool = False) -> dict[str, Any]:
    """The whole response object."""
    written = answered.results[0]
    text, calls = tools.parted(written.text) if asked.tools else (written.text, [])
    cut = written.finish == "length"
    usage = answered.usage
    status = "incomplete" if cut or cancelled else "completed"
    return begun | {
        "status": "cancelled" if cancelled else status,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [item(begun["id"], text, status), *map(call_item, tools.shown(calls))],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
            "memory": usage["memory"],
        },
    }
