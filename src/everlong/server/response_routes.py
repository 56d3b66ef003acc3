"""`/v1/responses`: made, streamed, gone on from, fetched, cancelled and deleted."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from everlong.server import responses, tools
from everlong.server.asked import Answered, Asked
from everlong.server.body import body_of, caller_of, described, owner_of, service_of, session_of
from everlong.server.errors import ApiError, api_error, refused
from everlong.server.openai import parsed
from everlong.server.responses import KeptResponse, ResponseFields, Responses
from everlong.server.streaming import Events, EventStream, result
from everlong.server.worker import Left, Waited
from everlong.text.chat_template import message

router = APIRouter(prefix="/v1/responses")


@router.post("", openapi_extra=described(ResponseFields))
async def create_response(request: Request) -> Response:
    """A response to an input, behind the response before it or in a session."""
    service = service_of(request)
    fields = parsed(ResponseFields, await body_of(request))
    session = session_of(request, fields.session_name)
    before = []
    if fields.previous_response_id is not None:
        if session is not None:
            raise refused("previous_response_id", "a session goes on by itself; name one of the two")
        found = _responses(request).get(fields.previous_response_id, owner_of(request), "previous_response_id")
        before = [m for m in found.messages if m["role"] != "system" or not fields.instructions]
    asked = fields.asked(service.settings.limits, before)
    making = Making(request, fields, asked)
    events = Events(service.settings.limits.request_s)
    ticket = service.answer(asked, events.tell, session, caller_of(request))
    request.app.state.running[making.begun["id"]] = (owner_of(request), ticket, making)
    if fields.stream:
        return EventStream(making.events(events, ticket), ticket)
    try:
        answered = await result(ticket, request, service.settings.limits.request_s)
    finally:
        request.app.state.running.pop(making.begun["id"], None)
    return JSONResponse(making.kept(answered))


@router.get("/{identity}")
async def get_response(request: Request, identity: str) -> dict[str, Any]:
    """A response that is kept."""
    return _responses(request).get(identity, owner_of(request)).body


@router.delete("/{identity}")
async def delete_response(request: Request, identity: str) -> dict[str, Any]:
    """Forget a response."""
    _responses(request).delete(identity, owner_of(request))
    return {"id": identity, "object": "response.deleted", "deleted": True}


@router.post("/{identity}/cancel")
async def cancel_response(request: Request, identity: str) -> dict[str, Any]:
    """End a response that is being written; it keeps what was written."""
    owner, ticket, making = request.app.state.running.get(identity, (None, None, None))
    if ticket is None or owner != owner_of(request):
        # 404 for one that is not known either.
        _responses(request).get(identity, owner_of(request))
        raise ApiError(400, f"response {identity!r}: has ended; what was written is kept", None, "already_ended")
    making.cancelled = True
    ticket.end()
    return making.begun | {"status": "cancelled"}


def _responses(request: Request) -> Responses:
    return request.app.state.responses


class Making:
    """A response while it is made."""

    def __init__(self, request: Request, fields: ResponseFields, asked: Asked) -> None:
        self._request = request
        self._asked = asked
        model = fields.model or service_of(request).loaded.name
        self.begun = responses.body(f"resp_{uuid.uuid4().hex}", model, fields)
        self.cancelled = False
        """Whether it was ended before its time."""
        self._sequence = 0

    def kept(self, answered: Answered) -> dict[str, Any]:
        """The whole response, which can be gone on from."""
        whole = responses.completed(self.begun, self._asked, answered, self.cancelled)
        text = answered.results[0].text
        said = (tools.said(text) if self._asked.tools else message("assistant", text)) | {"quoted": "yes"}
        kept = KeptResponse(whole, [*self._asked.messages, said], owner_of(self._request))
        _responses(self._request).keep(kept)
        return whole

    async def events(self, events: Events, ticket: Waited) -> AsyncIterator[dict[str, Any] | None]:
        """The events of a response: each object whole, each event numbered."""
        identity = self.begun["id"]
        text = tools.CallText()
        empty = responses.item(identity, None, "in_progress")
        place = {"item_id": empty["id"], "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=self.begun)
        yield self._event("response.in_progress", response=self.begun)
        yield self._event("response.output_item.added", output_index=0, item=empty)
        yield self._event("response.content_part.added", **place, part=responses.part(""))
        try:
            async for piece in events.of(ticket, self._request):
                if piece is None:
                    yield None
                else:
                    delta = text.take(piece.text) if self._asked.tools else piece.text
                    yield self._event("response.output_text.delta", **place, delta=delta, logprobs=[])
        except Left:
            return
        except Exception as error:  # noqa: BLE001 (the client is told)
            said = api_error(error)
            failed = self.begun | {"status": "failed", "error": {"code": said.code, "message": str(said)}}
            yield self._event("response.failed", response=failed)
            return
        finally:
            self._request.app.state.running.pop(identity, None)
        whole = self.kept(ticket.future.result())
        if rest := text.rest()[0]:
            yield self._event("response.output_text.delta", **place, delta=rest, logprobs=[])
        item, *calls = whole["output"]
        part = item["content"][0]
        yield self._event("response.output_text.done", **place, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=0, item=item)
        for n, call in enumerate(calls, 1):
            where = {"item_id": call["id"], "output_index": n}
            begun = call | {"status": "in_progress", "arguments": ""}
            yield self._event("response.output_item.added", output_index=n, item=begun)
            yield self._event("response.function_call_arguments.delta", **where, delta=call["arguments"])
            yield self._event(
                "response.function_call_arguments.done", **where, name=call["name"], arguments=call["arguments"]
            )
            yield self._event("response.output_item.done", output_index=n, item=call)
        # There is no event of a response that was cancelled: it says itself what it is.
        kind = "incomplete" if self.cancelled else whole["status"]
        yield self._event(f"response.{kind}", response=whole)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1} | fields
