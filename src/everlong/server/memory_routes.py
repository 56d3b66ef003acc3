"""What a session holds, to look at while it works: its memory, what was said in it, and the text of any tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from everlong.server import talk
from everlong.server.body import scope_of, service_of
from everlong.server.errors import ApiError, refused
from everlong.server.live import LiveAnswers
from everlong.server.session_routes import done
from everlong.server.worker import Job
from everlong.session.citations import cited
from everlong.session.losses import losses
from everlong.session.session import Session
from everlong.text.transcript import Passage, Transcript

router = APIRouter(prefix="/v1/sessions")
MOST_TOKENS = 8192
"""Whose text is sent at once."""
MOST_ENTRIES = 200


@router.get("/{name}/memory")
async def memory(request: Request, name: str) -> dict[str, Any]:
    """The memory report, what is lost by the reason, which stretches were dropped, and what the last answer read."""
    kept, full = service_of(request).kept, scope_of(request).full(name)

    def told(session: Session) -> dict[str, Any]:
        found = {"object": "session.memory", "session": name, "report": session.report().as_dict()}
        read = [p for p in kept.passages(full) if p["last"] <= session.seen_tokens]
        return found | {"losses": asdict(losses(session)), "read": read} | _blocks(session)

    return await _looked(request, name, told)


@router.get("/{name}/messages")
async def messages(request: Request, name: str, before: int | None = None, limit: int = 50) -> dict[str, Any]:
    """What was said and read last, oldest first, without an answer that `live` tells of; `before`: a token."""
    if not 1 <= limit <= MOST_ENTRIES:
        raise refused("limit", f"got {limit}, expected 1 to {MOST_ENTRIES}")
    full = scope_of(request).full(name)
    live: LiveAnswers = request.app.state.live

    def told(session: Session) -> dict[str, Any]:
        end = session.seen_tokens if before is None else before
        found = talk.entries(session.transcript, session.tokenizer, end, limit)
        more = len(found) == limit
        if before is None and (running := live.running(full)) is not None:
            found = talk.without_running(found, running.said)
        return {"object": "list", "data": [entry.as_dict() for entry in found], "has_more": more}

    return await _looked(request, name, told)


@router.get("/{name}/text")
async def text(request: Request, name: str, first: int, end: int, around: int = 0) -> dict[str, Any]:
    """The text of tokens `first` .. `end` - 1 and of `around` more of their source on both sides, and where it is."""
    if not (0 <= first < end and around >= 0 and end - first + 2 * around <= MOST_TOKENS):
        raise refused("first", f"got {first}:{end} and {around} around, expected a start and a later end, in all at "
                      f"most {MOST_TOKENS:,} tokens")  # fmt: skip

    def told(session: Session) -> dict[str, Any]:
        if end > session.seen_tokens:
            raise refused("end", f"got {end}, the session holds {session.seen_tokens:,} tokens")
        return _text(session.transcript, first, end, around)

    return await _looked(request, name, told)


async def _looked(request: Request, name: str, told: Callable[[Session], dict[str, Any]]) -> dict[str, Any]:
    """What is told of a session: of an open one at once, whoever works with it; of another when it is opened."""
    service, full = service_of(request), scope_of(request).full(name)

    def work(session: Session) -> Job:
        return told(session)
        yield

    def looked() -> Job:
        if service.kept.library.find(full) is None:
            raise ApiError(
                404, f"session {name!r}: does not exist; GET /v1/sessions lists them", "session", "not_found"
            )
        session = service.kept.peek(full)
        if session is not None:
            return told(session)
        return (yield from service.jobs.with_session(full, work))

    return await done(request, looked)


def _blocks(session: Session) -> dict[str, Any]:
    """How many blocks are stored, and which tokens of them were dropped."""
    rows = session.stored("memory").rows if session.method.answers else []
    if not rows:
        return {"blocks": 0, "dropped": []}
    row = rows[0]
    return {"blocks": row.sealed - len(row.dropped), "dropped": _joined(map(row.block_range, sorted(row.dropped)))}


def _joined(spans: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Ascending spans, those that meet as one."""
    found: list[list[int]] = []
    for first, end in spans:
        if found and found[-1][1] == first:
            found[-1][1] = end
        else:
            found.append([first, end])
    return found


def _text(transcript: Transcript, first: int, end: int, around: int) -> dict[str, Any]:
    source = max((s for s in transcript.sources if s.first <= first), key=lambda s: s.first)
    begins, after = transcript.bounds(source)
    end = min(end, after)
    low = max(begins, first - around)
    high = min(after, end + around)
    (passage,) = transcript.passages(first, end)
    where = asdict(cited(transcript, passage, 1.0))
    spans = {"before": (low, first), "text": (first, end), "after": (end, high)}
    shown = {key: "".join(p.text for p in _parts(transcript, *span)) for key, span in spans.items()}
    place = {"first": low, "end": high, "source_first": begins, "source_end": after}
    return where | place | shown


def _parts(transcript: Transcript, first: int, end: int) -> list[Passage]:
    return transcript.passages(first, end) if first < end else []
