"""The application: its routes, and how errors look."""

from __future__ import annotations

import logging
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from everlong.errors import EverlongError
from everlong.server import (
    chat_routes,
    completions,
    conversation_routes,
    document_routes,
    live_routes,
    memory_routes,
    ollama,
    page_routes,
    response_routes,
    session_routes,
)
from everlong.server.errors import ApiError, api_error
from everlong.server.guard import Guard
from everlong.server.live import LiveAnswers
from everlong.server.responses import Responses
from everlong.server.service import Service
from everlong.version import __version__

logger = logging.getLogger(__name__)


def create_app(service: Service) -> FastAPI:
    """The application over one model."""
    app = FastAPI(title="everlong", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.state.began = int(time.time())
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(Exception, _failed)
    for kind in (ApiError, EverlongError, ValueError, RuntimeError, OSError, LookupError, TypeError):
        app.add_exception_handler(kind, _failed)
    app.add_middleware(Guard, settings=service.settings, metrics=service.metrics)
    app.add_api_route("/metrics", _metrics, methods=["GET"])
    app.add_api_route("/healthz", _health, methods=["GET"])
    app.add_api_route("/v1/embeddings", _embeddings, methods=["POST"])
    app.add_api_route("/v1/models", _models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", _model, methods=["GET"])
    app.state.responses = Responses()
    app.state.running = {}
    app.state.live = LiveAnswers()
    writing = (chat_routes, completions, response_routes, ollama)
    looking = (live_routes, memory_routes, page_routes)
    for routes in (*writing, session_routes, document_routes, conversation_routes, *looking):
        app.include_router(routes.router)
    return app


def _failed(_: Request, error: Exception) -> JSONResponse:
    found = api_error(error)
    if found.status >= 500:
        logger.error("a request failed", exc_info=error)
    return JSONResponse(found.as_dict(), found.status, found.headers)


def _unknown(request: Request, error: Exception) -> JSONResponse:
    status = getattr(error, "status_code", 500)
    where = f"{request.method} {request.url.path}"
    said = {404: f"{where}: there is no such route", 405: f"{where}: this route does not take the method"}
    return JSONResponse(ApiError(status, said.get(status, str(error)), code="unknown_url").as_dict(), status)


def _health(request: Request) -> JSONResponse:
    alive = request.app.state.service.worker.alive
    return JSONResponse({"status": "ok" if alive else "the engine died"}, 200 if alive else 503)


def _metrics(request: Request) -> Response:
    return Response(request.app.state.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _embeddings() -> None:
    raise ApiError(404, "embeddings: this model writes, it makes no vectors; ask a server that has an encoder")


def _models(request: Request) -> dict[str, Any]:
    return {"object": "list", "data": [_described(request)]}


def _model(request: Request, model: str) -> dict[str, Any]:
    return _described(request) | {"id": model}


def _described(request: Request) -> dict[str, Any]:
    service: Service = request.app.state.service
    length = service.context_length
    facts = {"id": service.loaded.name, "object": "model", "created": request.app.state.began, "owned_by": "everlong"}
    return facts | {"max_model_len": length, "context_length": length, "method": service.method.name}
