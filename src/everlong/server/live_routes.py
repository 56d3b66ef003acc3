"""`/v1/sessions/{name}/live`: an answer that goes on when its client leaves, for the page."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from everlong.server.body import body_of, caller_of, scope_of, service_of
from everlong.server.errors import ApiError, refused
from everlong.server.live import LiveAnswer, LiveAnswers, nothing
from everlong.server.openai import ChatFields, parsed
from everlong.server.pieces import Tell
from everlong.server.streaming import server_sent
from everlong.server.worker import Waited

router = APIRouter(prefix="/v1/sessions")
_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}


@router.post("/{name}/live", status_code=202)
async def begin_live(request: Request, name: str) -> dict[str, Any]:
    """Begin the answer to a message in a session, which is made if it is not there; the same id begins it once."""
    service = service_of(request)
    full = scope_of(request).full(name)
    given = await body_of(request)
    said = given.get("message")
    identity = given.get("id", f"live_{uuid.uuid4().hex}")
    if not isinstance(said, str) or not said.strip():
        raise refused("message", "expected a text with at least one word")
    if not isinstance(identity, str) or not 0 < len(identity) <= 100:
        raise refused("id", "expected a text of 1 to 100 characters, new for each message")
    messages = [{"role": "user", "content": said}]
    asked = parsed(ChatFields, given | {"messages": messages, "n": None}).asked(service.settings.limits)
    asked = replace(asked, progress=True)

    def submit(tell: Tell) -> Waited:
        return service.answer(asked, tell, full, caller_of(request))

    answer = _answers(request).begin(full, identity, said, submit)
    return {"id": answer.identity, "object": "session.live", "session": name}


@router.get("/{name}/live")
async def follow_live(request: Request, name: str, after: int = 0) -> StreamingResponse:
    """The newest answer as events, from its first text on or behind the first `after` characters; else `live.none`."""
    if after < 0:
        raise refused("after", f"got {after}, expected at least 0 (characters)")
    answer = _answers(request).of(scope_of(request).full(name))
    events = nothing() if answer is None else answer.events(after)
    return StreamingResponse(server_sent(events), media_type="text/event-stream", headers=_HEADERS)


@router.delete("/{name}/live")
async def stop_live(request: Request, name: str) -> dict[str, Any]:
    """Stop the answer that is being written, which keeps what was written; let go of one that has ended."""
    answer = _answer(request, name)
    if answer.ended is None:
        answer.stop()
    else:
        _answers(request).forget(scope_of(request).full(name))
    return {"id": answer.identity, "object": "session.live", "stopped": True}


def _answers(request: Request) -> LiveAnswers:
    return request.app.state.live


def _answer(request: Request, name: str) -> LiveAnswer:
    found = _answers(request).of(scope_of(request).full(name))
    if found is None:
        raise ApiError(404, f"session {name!r}: no answer was begun here since the server started", None, "not_found")
    return found
