"""The routes of Ollama that clients ask for: `/api/chat` and `/api/generate`, streamed as lines of JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from everlong.server.asked import Answered, Asked
from everlong.server.body import body_of, caller_of, service_of, session_of
from everlong.server.errors import api_error, refused
from everlong.server.forms import of_ollama
from everlong.server.messages import messages_of
from everlong.server.openai import SamplingFields, finish_reason, parsed
from everlong.server.pieces import Piece
from everlong.server.service import Service
from everlong.server.streaming import Events, EventStream, json_lines, result
from everlong.server.worker import Left, Waited
from everlong.text.chat_template import Message, message
from everlong.version import __version__

router = APIRouter(prefix="/api")
Shown = Callable[[str], dict[str, Any]]
"""A piece of text as the field that a route shows it in."""
_OPTIONS = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
"""Options of Ollama that OpenAI's requests call otherwise."""


@router.get("/version")
async def version() -> dict[str, str]:
    """The version."""
    return {"version": __version__}


@router.get("/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The one model that is served."""
    service = service_of(request)
    name = service.loaded.name
    facts = {"name": name, "model": name, "modified_at": _now(), "size": 0, "digest": ""}
    return {"models": [facts | {"details": _details(service)}]}


@router.post("/show")
async def show(request: Request) -> dict[str, Any]:
    """What is known of the model."""
    service = service_of(request)
    family = str(service.loaded.model.config.model_type)
    info = {"general.architecture": family, f"{family}.context_length": service.context_length}
    template = str(service.loaded.tokenizer.chat_template or "")
    return {"details": _details(service), "model_info": info, "template": template, "capabilities": ["completion"]}


@router.post("/chat")
async def chat(request: Request) -> Response:
    """An answer to messages."""
    body = await body_of(request)
    return await _answered(
        request, body, messages_of(body.get("messages")), lambda text: {"message": message("assistant", text)}
    )


@router.post("/generate")
async def generate(request: Request) -> Response:
    """An answer to a prompt, which is put through the chat template; template and context are not taken."""
    body = await body_of(request)
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise refused("prompt", f"got {type(prompt).__name__}, expected a text")
    for field in ("template", "context", "raw", "images"):
        if body.get(field):
            raise refused(field, "cannot be honoured here; leave it out, or use /v1/completions")
    system = [message("system", str(body["system"]))] if body.get("system") else []
    return await _answered(request, body, [*system, message("user", prompt)], lambda text: {"response": text})


async def _answered(request: Request, body: dict[str, Any], messages: list[Message], shown: Shown) -> Response:
    service = service_of(request)
    if body.get("tools"):
        raise refused("tools", "are not supported by this route; use /v1/chat/completions")
    options = body.get("options") or {}
    if not isinstance(options, dict):
        raise refused("options", "expected an object")
    given = {_OPTIONS.get(key, key): value for key, value in options.items()}
    if isinstance(given.get("max_tokens"), int) and given["max_tokens"] < 0:
        del given["max_tokens"]
    fields = parsed(SamplingFields, given)
    sampling = fields.settings(service.settings.limits)
    if (form := of_ollama(body.get("format"))) is not None:
        sampling["grammar"] = form
    asked = Asked(messages, sampling)
    session = session_of(request, body.get("session"))
    events = Events(service.settings.limits.request_s)
    ticket = service.answer(asked, events.tell, session, caller_of(request))
    model = str(body.get("model") or service.loaded.name)
    if body.get("stream") is False:
        begun = time.monotonic()
        answered = await result(ticket, request, service.settings.limits.request_s)
        return JSONResponse(_last(model, answered, begun) | shown(answered.results[0].text))
    lines = _lines(events, ticket, request, model, shown)
    return EventStream(lines, ticket, json_lines, "application/x-ndjson")


async def _lines(
    events: Events, ticket: Waited, request: Request, model: str, shown: Shown
) -> AsyncIterator[dict[str, Any] | None]:
    begun = time.monotonic()
    try:
        async for piece in events.of(ticket, request):
            if isinstance(piece, Piece):
                yield {"model": model, "created_at": _now(), "done": False} | shown(piece.text)
    except Left:
        return
    except Exception as error:  # noqa: BLE001 (the client is told)
        yield {"error": str(api_error(error))}
        return
    yield _last(model, ticket.future.result(), begun) | shown("")


def _last(model: str, answered: Answered, begun: float) -> dict[str, Any]:
    took_ns = int(1e9 * (time.monotonic() - begun))
    return {
        "model": model,
        "created_at": _now(),
        "done": True,
        "done_reason": finish_reason(answered.results[0]),
        "total_duration": took_ns,
        "prompt_eval_count": answered.prompt_tokens,
        "eval_count": len(answered.results[0].token_ids),
        "memory": answered.report,
    }


def _details(service: Service) -> dict[str, Any]:
    family = str(service.loaded.model.config.model_type)
    return {
        "format": "everlong",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
