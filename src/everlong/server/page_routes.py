"""The page at `/`: files of this package, and nothing from elsewhere."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

router = APIRouter()
_FOLDER = Path(__file__).parent / "page"
PATHS = ("/", *(f"/{file.name}" for file in sorted(_FOLDER.iterdir()) if file.suffix != ".html"))
"""The page, and the files that it loads: what anybody may have, with a key or without."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for again each time, and sent again only where it has changed.
    "Cache-Control": "no-cache",
}


def page(request: Request) -> Response:
    """A file of the page, or word that it has not changed."""
    name = request.url.path[1:] or "index.html"
    content, tag = _file(name)
    headers = _HEADERS | {"ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)


@cache
def _file(name: str) -> tuple[bytes, str]:
    content = (_FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


for _path in PATHS:
    router.add_api_route(_path, page, methods=["GET", "HEAD"], include_in_schema=False)
