"""What routes take from a request: its body whatever its type says, its session, who sent it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from everlong.errors import InputError
from everlong.library.naming import check_name
from everlong.server.errors import ApiError, refused
from everlong.server.joining import KEY_HEADER, ApiCaller
from everlong.server.service import Service

SESSION_HEADER = "x-session-id"
RETRY_HEADER = "x-stainless-retry-count"
"""By which OpenAI's own clients say how often they have asked before."""


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a body, which is parsed whatever its content type."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


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


@dataclass(frozen=True)
class Scope:
    """The sessions of one API key; the store has them under names that begin with `prefix`."""

    prefix: str

    def full(self, name: str, param: str = "session") -> str:
        """The name in the store; ApiError for one that cannot be one."""
        try:
            check_name(name)
            check_name(self.prefix + name)
        except InputError as error:
            raise refused(param, str(error)) from None
        return self.prefix + name

    def owns(self, full: str) -> bool:
        """Whether a session of the store is one of these."""
        return full.startswith(self.prefix)

    def shown(self, full: str) -> str:
        """The name that clients know."""
        return full.removeprefix(self.prefix)


def scope_of(request: Request) -> Scope:
    """The sessions of whoever sent a request: where there are several keys, each has its own."""
    owner = owner_of(request)
    return Scope(f"{owner[:12]}:" if len(service_of(request).settings.keys) > 1 else "")


def session_of(request: Request, field: Any) -> str | None:
    """The session that a request is for, as the store names it, by its field or its header; None for none."""
    if not isinstance(field, str | None):
        raise refused("session", f"got {type(field).__name__}, expected the name of a session")
    name = field or request.headers.get(SESSION_HEADER) or None
    return None if name is None else scope_of(request).full(name)


def caller_of(request: Request) -> ApiCaller:
    """Who asks, and whether it is again."""
    key = request.headers.get(KEY_HEADER) or None
    return ApiCaller(owner_of(request), key, request.headers.get(RETRY_HEADER, "0") != "0")


def owner_of(request: Request) -> str:
    """A stand-in for whose key a request came with: conversations are found again for the same one alone."""
    key = request.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest() if key else ""
