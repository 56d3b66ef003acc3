"""`/v1/conversations`: OpenAI's name for a session, without items of its own."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import APIRouter, Request

from everlong.server.body import body_of, scope_of, service_of
from everlong.server.errors import refused
from everlong.server.session_routes import delete_session, done, get_session
from everlong.server.worker import Job

router = APIRouter(prefix="/v1/conversations")


@router.post("")
async def create_conversation(request: Request) -> dict[str, Any]:
    """Make an empty conversation, to be named by responses."""
    service = service_of(request)
    given = await body_of(request)
    if given.get("items"):
        raise refused("items", "cannot be taken here; send them as the input of the first response")
    name = f"conv_{secrets.token_hex(12)}"
    full = scope_of(request).full(name)

    def created() -> Job:
        yield from service.jobs.with_store([full], lambda: service.kept.create(full))
        return service.kept.entry(full)

    return _shown(name, int((await done(request, created)).created))


@router.get("/{name}")
async def get_conversation(request: Request, name: str) -> dict[str, Any]:
    """A conversation that is kept."""
    return _shown(name, (await get_session(request, name))["created"])


@router.delete("/{name}")
async def delete_conversation(request: Request, name: str) -> dict[str, Any]:
    """Remove a conversation."""
    return await delete_session(request, name) | {"object": "conversation.deleted"}


def _shown(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "conversation", "created_at": created, "metadata": {}}
