"""Who may come in: keys, hosts, origins and sizes are looked at before a route sees a request."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everlong.server.errors import ApiError
from everlong.server.metrics import Metrics
from everlong.server.page_routes import PATHS
from everlong.server.settings import ServerSettings, is_loopback

OPEN = ("/healthz", *PATHS)
"""What needs no key."""


class Guard:
    """Refuses requests without a key, from pages of other sites, or too large; counts the others."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with what is wrong."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def counted(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            headers = Headers(scope=scope)
            self._check(headers, scope["path"])
            await self._app(scope, self._limited(headers, scope["path"], receive), counted)
        except ApiError as error:
            response = JSONResponse(error.as_dict(), error.status, error.headers)
            await response(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        if is_loopback(self._settings.host) and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise ApiError(403, f"host {host!r}: this server answers to this machine's own names only", code="host")
        origin = headers.get("origin")
        # A proxy may have changed the host; no page can set what its browser says of itself.
        own = headers.get("sec-fetch-site") == "same-origin"
        if origin is not None and not own and urlsplit(origin).netloc != host:
            raise ApiError(403, f"origin {origin!r}: pages of other sites may not use this server", code="origin")
        if self._settings.keys and path not in OPEN and not self._knows(headers):
            hint = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "api key: missing or wrong; send Authorization: Bearer KEY", None, "invalid_key", hint)

    def _knows(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ").strip().encode()
        # All keys are compared, whichever fits, in a time that does not depend on where they differ.
        return sum(hmac.compare_digest(given, key.encode()) for key in self._settings.keys) > 0

    def _limited(self, headers: Headers, path: str, receive: Receive) -> Receive:
        limits = self._settings.limits
        most = limits.upload_bytes if path.endswith("/documents") else limits.body_bytes
        too_large = ApiError(413, f"body: larger than {most:,} bytes; send less", code="too_large")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            event = await receive()
            taken += len(event.get("body", b""))
            if taken > most:
                raise too_large
            return event

        return limited
