"""Errors as OpenAI's clients know them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from everlong.errors import (
    BudgetError,
    CapabilityError,
    ConfigError,
    EverlongError,
    InputError,
    SessionError,
    one_line,
)

_NAMES = {"max_new_tokens": "max_tokens", "logprobs": "top_logprobs"}
"""Settings that requests call otherwise."""


class ApiError(Exception):
    """An answer that is an error: status, message, and the field of the request that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}

    def as_dict(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refused(param: str, message: str, code: str | None = None) -> ApiError:
    """What is said of a field that cannot be honoured."""
    return ApiError(400, f"{param}: {message}", param, code)


def api_error(error: BaseException) -> ApiError:
    """What a client is told of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BudgetError):
        return ApiError(507, one_line(error, 500), code="budget_exceeded")
    if isinstance(error, ConfigError | InputError | CapabilityError):
        message = one_line(error, 500)
        name = re.match(r"(\w+)=", message)
        found = name and _NAMES.get(name[1], name[1])
        return ApiError(400, message if name is None else f"{found}{message[name.end(1) :]}", found)
    if isinstance(error, SessionError):
        return ApiError(409, one_line(error, 500), code="session_error")
    what = one_line(error, 300) if isinstance(error, EverlongError) else f"{type(error).__name__}: {one_line(error)}"
    return ApiError(500, f"{what}; the request failed, others go on", code="internal_error")


def field_error(errors: Sequence[Any]) -> ApiError:
    """What pydantic found wrong first."""
    first = errors[0]
    param = ".".join(str(part) for part in first["loc"] if not str(part).endswith(("]", "str", "int", "float")))
    return ApiError(400, f"{param or 'body'}: {first['msg']}", param or None, "invalid_type")
