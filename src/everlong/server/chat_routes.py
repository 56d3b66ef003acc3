"""`/v1/chat/completions`: streamed and not."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from everlong.server import openai
from everlong.server.asked import Answered, Asked
from everlong.server.body import body_of, caller_of, described, service_of, session_of
from everlong.server.errors import api_error
from everlong.server.openai import ChatFields, choice, chunk, parsed
from everlong.server.pieces import Piece, Progress
from everlong.server.service import Service
from everlong.server.streaming import DONE, Events, EventStream, result
from everlong.server.tools import CallText, shown
from everlong.server.worker import Left, Waited

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=described(ChatFields))
async def chat_completions(request: Request) -> Response:
    """A chat completion: the answer to a list of messages, in a session or found again by the messages."""
    service = service_of(request)
    fields = parsed(ChatFields, await body_of(request))
    asked = fields.asked(service.settings.limits)
    session = session_of(request, fields.session)
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    model = fields.model or service.loaded.name
    if not fields.stream:
        ticket = service.answer(asked, lambda piece: None, session, caller_of(request))
        answered = await result(ticket, request, service.settings.limits.request_s)
        return JSONResponse(openai.completion(answered, asked, identity, model, service.loaded.tokenizer))
    events = Events(service.settings.limits.request_s)
    ticket = service.answer(asked, events.tell, session, caller_of(request))
    written = Chunks(service, asked, identity, model, fields.wants_usage)
    return EventStream(written.of(events, ticket, request), ticket)


@dataclass
class Chunks:
    """The chunks of a streamed chat completion."""

    service: Service
    asked: Asked
    identity: str
    model: str
    wants_usage: bool

    def __post_init__(self) -> None:
        self._created = int(time.time())
        self._texts = [CallText() for _ in range(self.asked.n)]

    async def of(self, events: Events, ticket: Waited, request: Request) -> AsyncIterator[dict[str, Any] | str | None]:
        """Roles first, then the pieces of text, why each answer ended, what was used, and the end."""
        for n in range(self.asked.n):
            yield self._chunk(choice(n, {"role": "assistant", "content": ""}))
        try:
            async for piece in events.of(ticket, request):
                yield None if piece is None else self._told(piece)
        except Left:
            return
        except Exception as error:  # noqa: BLE001 (the client is told)
            yield api_error(error).as_dict()
            return
        answered: Answered = ticket.future.result()
        for n, written in enumerate(answered.results):
            rest, calls = self._texts[n].rest()
            if rest:
                yield self._chunk(choice(n, {"content": rest}))
            if calls:
                yield self._chunk(choice(n, {"tool_calls": shown(calls)}))
            yield self._chunk(choice(n, {}, openai.finish_reason(written, calls)))
        if self.wants_usage:
            yield chunk(self.identity, self._created, self.model, [], answered.usage)
        yield DONE

    def _told(self, piece: Piece | Progress) -> dict[str, Any]:
        if isinstance(piece, Progress):
            return self._chunk(choice(0, {})) | {"prompt_progress": piece.as_dict()}
        return self._piece(piece)

    def _piece(self, piece: Piece) -> dict[str, Any]:
        odds = openai.logprobs_of(piece.odds, self.service.loaded.tokenizer) if piece.odds else None
        text = self._texts[piece.index].take(piece.text) if self.asked.tools else piece.text
        return self._chunk(choice(piece.index, {"content": text}, logprobs=odds))

    def _chunk(self, part: dict[str, Any]) -> dict[str, Any]:
        return chunk(self.identity, self._created, self.model, [part])
