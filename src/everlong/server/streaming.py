"""From the engine's thread to the clients: what a job tells, as an asynchronous stream; whoever leaves ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from everlong.server.errors import ApiError
from everlong.server.worker import Left, Waited

PING_S = 10.0
"""Seconds between comment lines, by which proxies and clients see that the stream is alive."""
_LOOK_S = 0.25
"""Seconds between two looks at whether a client that waits is still there."""
DONE = "[DONE]"


class Events:
    """What a job tells, in order, until it has ended."""

    def __init__(self, limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + limit_s
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def tell(self, event: Any) -> None:
        """Take an event; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:
            # The loop has ended: nobody is listening any more.
            return

    async def of(self, ticket: Waited, request: Request) -> AsyncIterator[Any]:
        """The events of a job, and None where there was none for some seconds; raises what the job raised."""
        ticket.future.add_done_callback(self.tell)
        silent_s = 0.0
        while True:
            if self._loop.time() > self._deadline:
                ticket.end()
            try:
                event = await asyncio.wait_for(self._queue.get(), _LOOK_S)
            except TimeoutError:
                silent_s += _LOOK_S
                if await request.is_disconnected():
                    ticket.leave()
                if silent_s >= PING_S:
                    silent_s = 0.0
                    yield None
                continue
            silent_s = 0.0
            if event is ticket.future:
                break
            yield event
        ticket.future.result()


Sent = AsyncIterator[dict[str, Any] | str | None]
"""What a client is sent: objects, texts, and None where it is to see that the stream is alive."""


async def server_sent(events: Sent) -> AsyncIterator[bytes]:
    """As server-sent events; an object with a type is an event of that name."""
    async for event in events:
        if event is None:
            yield KEEPALIVE_COMMENT
        elif isinstance(event, str):
            yield format_sse_event(data_str=event)
        else:
            yield format_sse_event(data_str=json.dumps(event, ensure_ascii=False), event=event.get("type"))


async def json_lines(events: Sent) -> AsyncIterator[bytes]:
    """As objects, one a line."""
    async for event in events:
        if event is not None:
            yield json.dumps(event, ensure_ascii=False).encode() + b"\n"


class EventStream(StreamingResponse):
    """The events of a job as they come; it is told to end where the client leaves."""

    def __init__(
        self,
        events: Sent,
        ticket: Waited,
        encoded: Callable[[Sent], AsyncIterator[bytes]] = server_sent,
        media_type: str = "text/event-stream",
    ) -> None:
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        super().__init__(encoded(events), media_type=media_type, headers=headers)
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.leave()


async def result(ticket: Waited, request: Request, limit_s: float) -> Any:
    """What a job returns; it is told to end where its client leaves, or when its time is over."""
    waiting = asyncio.wrap_future(ticket.future)
    deadline = asyncio.get_running_loop().time() + limit_s
    late = False
    try:
        while not (await asyncio.wait({waiting}, timeout=_LOOK_S))[0]:
            late = late or asyncio.get_running_loop().time() > deadline
            if late:
                ticket.end()
            elif await request.is_disconnected():
                ticket.leave()
        return waiting.result()
    except Left:
        raise ApiError(504 if late else 499, "the request was ended before anything was written") from None
    finally:
        ticket.leave()
