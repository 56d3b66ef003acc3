"""What routes take from a request: its body whatever its type says, its session, who sent it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi import Request

from everlong.errors import InputError
from everlong.library.naming import check_name
from everlong.server.errors import ApiError, refused
from everlong.server.service import Service

SESSION_HEADER = "x-session-id"


def service_of(request: Request) -> Service:
    """The service of the application."""
    return request.app.state.service


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent."""
    raw = await request.body()
    try:
        found = json.loads(raw.decode("utf-8-sig") or "{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"body: no JSON ({error}); send one JSON object", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"body: got a {type(found).__name__}, expected one JSON object", code="invalid_json")
    return found


def session_of(request: Request, field: str | None) -> str | None:
    """The name of the session that a request is for, by its field or its header; None for none."""
    name = field or request.headers.get(SESSION_HEADER) or None
    return None if name is None else checked(name, "session")


def checked(name: str, param: str) -> str:
    """A session's name; ApiError for one that cannot be one."""
    try:
        check_name(name)
    except InputError as error:
        raise refused(param, str(error)) from None
    return name


def owner_of(request: Request) -> str:
    """A stand-in for whose key a request came with: conversations are found again for the same one alone."""
    key = request.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest() if key else ""
