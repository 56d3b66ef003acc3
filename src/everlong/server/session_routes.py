"""`/v1/sessions`: the sessions of the store, the documents they read and the passages their answers stand on."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from everlong.library.catalog import SessionRecord
from everlong.server.body import Scope, body_of, described, scope_of, service_of
from everlong.server.errors import ApiError, refused
from everlong.server.streaming import result
from everlong.server.worker import Job
from everlong.session.session import Session

router = APIRouter(prefix="/v1/sessions")


class NameFields(BaseModel):
    """The body of a request that names a session."""

    model_config = ConfigDict(extra="allow")

    name: Any = None


class RewindFields(BaseModel):
    """How many turns are to be taken back."""

    model_config = ConfigDict(extra="allow")

    turns: Any = 1


async def done(request: Request, job: Callable[[], Job]) -> Any:
    """What a job of the engine's thread returns."""
    service = service_of(request)
    return await result(service.submit(job), request, service.settings.limits.request_s)


@router.get("")
async def list_sessions(request: Request) -> dict[str, Any]:
    """All sessions of the store, those used last first."""
    service, scope = service_of(request), scope_of(request)

    def listed() -> Job:
        entries = yield from service.worker.beside(service.kept.library.entries)
        entries = sorted(entries, key=lambda entry: -entry.updated)
        return (yield from _shown(request, scope, [entry for entry in entries if scope.owns(entry.name)]))

    return {"object": "list", "data": await done(request, listed)}


@router.post("", openapi_extra=described(NameFields))
async def create_session(request: Request) -> dict[str, Any]:
    """Make an empty session, by the name that is given or one of its own."""
    service, scope = service_of(request), scope_of(request)
    given = await body_of(request)
    name = scope.full(_name(given, required=False) or f"session-{secrets.token_hex(6)}")

    def created() -> Job:
        yield from service.jobs.with_store([name], lambda: service.kept.create(name))
        return (yield from _one_shown(request, scope, name))

    return await done(request, created)


@router.get("/{name}")
async def get_session(request: Request, name: str) -> dict[str, Any]:
    """One session, with its memory report."""
    service, scope = service_of(request), scope_of(request)
    full = scope.full(name)

    def report(session: Session) -> Job:
        return {"memory": session.report().as_dict()}
        yield

    def found() -> Job:
        _must_exist(request, full, name)
        memory = yield from service.jobs.with_session(full, report)
        return (yield from _one_shown(request, scope, full)) | memory

    return await done(request, found)


@router.patch("/{name}", openapi_extra=described(NameFields))
@router.post("/{name}", openapi_extra=described(NameFields))
async def rename_session(request: Request, name: str) -> dict[str, Any]:
    """Give a session another name."""
    service, scope = service_of(request), scope_of(request)
    full, new = scope.full(name), scope.full(_name(await body_of(request)) or "")

    def renamed() -> Job:
        _must_exist(request, full, name)
        yield from service.jobs.with_store([full, new], lambda: service.kept.library.rename(full, new))
        return (yield from _one_shown(request, scope, new))

    return await done(request, renamed)


@router.post("/{name}/fork", openapi_extra=described(NameFields))
async def fork_session(request: Request, name: str) -> dict[str, Any]:
    """A session that has read the same and goes on by itself."""
    service, scope = service_of(request), scope_of(request)
    full = scope.full(name)
    new = scope.full(_name(await body_of(request), required=False) or f"{name[:80]}-{secrets.token_hex(4)}")

    def forked() -> Job:
        _must_exist(request, full, name)
        yield from service.jobs.with_store([full, new], lambda: service.kept.library.fork(full, new))
        return (yield from _one_shown(request, scope, new))

    return await done(request, forked)


@router.post("/{name}/rewind", openapi_extra=described(RewindFields))
async def rewind_session(request: Request, name: str) -> dict[str, Any]:
    """Take back the last turns of a session, with all that was read since they began: one, or two."""
    service, scope = service_of(request), scope_of(request)
    full = scope.full(name)
    turns = (await body_of(request)).get("turns", 1)
    if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
        raise refused("turns", f"got {turns!r}, expected how many turns are to be taken back, at least 1")

    def rewound() -> Job:
        _must_exist(request, full, name)
        yield from service.kept.take(full)
        try:
            yield from service.kept.rewind(full, turns)
        finally:
            service.kept.release(full)
        return (yield from _one_shown(request, scope, full))

    return await done(request, rewound)


@router.delete("/{name}")
async def delete_session(request: Request, name: str) -> dict[str, Any]:
    """Remove a session and all that only it holds."""
    service, scope = service_of(request), scope_of(request)
    full = scope.full(name)

    def deleted() -> Job:
        _must_exist(request, full, name)
        yield from service.jobs.with_store([full], lambda: service.kept.library.delete(full))

    await done(request, deleted)
    return {"id": name, "object": "session.deleted", "deleted": True}


@router.get("/{name}/citations")
async def citations(request: Request, name: str) -> dict[str, Any]:
    """The passages that the session's last answer can be checked against, best first."""
    kept = service_of(request).kept
    full = scope_of(request).full(name)

    def found() -> Job:
        _must_exist(request, full, name)
        return kept.citations(full)
        yield

    return {"object": "list", "data": await done(request, found)}


def _must_exist(request: Request, full: str, name: str) -> None:
    if service_of(request).kept.library.find(full) is None:
        raise ApiError(404, f"session {name!r}: does not exist; GET /v1/sessions lists them", "session", "not_found")


def _shown(request: Request, scope: Scope, entries: Sequence[SessionRecord]) -> Job:
    told = yield from service_of(request).kept.describe(entries)
    return [session | {"id": scope.shown(session["id"])} for session in told]


def _one_shown(request: Request, scope: Scope, name: str) -> Job:
    (told,) = yield from _shown(request, scope, [service_of(request).kept.entry(name)])
    return told


def _name(given: dict[str, Any], required: bool = True) -> str | None:
    found = next((given[key] for key in ("name", "id", "session") if given.get(key) is not None), None)
    if (found is None and required) or not isinstance(found, str | None):
        raise refused("name", f"got {found!r}, expected the name of a session")
    return found
