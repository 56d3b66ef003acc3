"""`/v1/completions`: texts or ids that are gone on from as they are, and scored where they are echoed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import StrictBool
from starlette.responses import Response

from everlong.engine.token_odds import TokenOdds
from everlong.server.asked import Answered
from everlong.server.body import body_of, caller_of, described, service_of, session_of
from everlong.server.continuing import Continued, Continuing
from everlong.server.errors import api_error, refused
from everlong.server.openai import MOST_LIKELIEST, SamplingFields, finish_reason, parsed
from everlong.server.pieces import Piece
from everlong.server.service import Service
from everlong.server.streaming import DONE, Events, EventStream, result
from everlong.server.worker import Left, Waited

router = APIRouter()
MOST_PROMPTS = 128


class CompletionFields(SamplingFields):
    """A request for a completion."""

    prompt: Any = None
    echo: StrictBool | None = None
    logprobs: int | StrictBool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids; ApiError for what is neither."""
        given = self.prompt
        if isinstance(given, str) or (isinstance(given, list) and given and all(_is_id(x) for x in given)):
            given = [given]
        if not isinstance(given, list) or not given or not all(_is_prompt(x) for x in given):
            raise refused("prompt", "expected a text, token ids, or a list of either, none of them empty")
        if len(given) > MOST_PROMPTS:
            raise refused("prompt", f"got {len(given)} prompts, expected {MOST_PROMPTS} at most")
        return given

    def continuing(self, service: Service) -> list[Continuing]:
        """What is wanted, for each prompt."""
        if self.suffix:
            raise refused("suffix", "the model writes behind a text only; leave it out")
        if (self.best_of or 1) > self.answers():
            raise refused("best_of", "answers are not chosen among; ask for n of them")
        likeliest = None if self.logprobs is None or self.logprobs is False else int(self.logprobs)
        if likeliest is not None and not 0 <= likeliest <= MOST_LIKELIEST:
            raise refused("logprobs", f"got {likeliest}, expected 0 to {MOST_LIKELIEST}")
        writes = self.max_tokens != 0
        if not writes and not self.echo:
            raise refused("max_tokens", "got 0, expected at least 1 (or echo, for the prompt's log-probabilities)")
        fields = self if writes else self.model_copy(update={"max_tokens": 1})
        sampling = fields.settings(service.settings.limits) | {"logprobs": likeliest}
        return [Continuing(prompt, sampling, self.answers(), bool(self.echo), writes) for prompt in self.prompts()]


def _is_id(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_prompt(x: Any) -> bool:
    return bool(x) and (isinstance(x, str) or (isinstance(x, list) and all(_is_id(i) for i in x)))


@router.post("/v1/completions", openapi_extra=described(CompletionFields))
async def completions(request: Request) -> Response:
    """Texts gone on from, without a chat template."""
    service = service_of(request)
    fields = parsed(CompletionFields, await body_of(request))
    wanted = fields.continuing(service)
    session = session_of(request, fields.session)
    if session is not None and len(wanted) > 1:
        raise refused("prompt", "a session takes one prompt at a time")
    shape = CompletionForm(f"cmpl-{uuid.uuid4().hex}", int(time.time()), fields.model or service.loaded.name, service)
    if not fields.stream:
        ticket = service.go_on(wanted, lambda piece: None, session, caller_of(request))
        found = await result(ticket, request, service.settings.limits.request_s)
        return JSONResponse(shape.whole(found, wanted))
    if fields.echo:
        raise refused("stream", "a prompt is not echoed in a stream; leave echo out")
    events = Events(service.settings.limits.request_s)
    ticket = service.go_on(wanted, events.tell, session, caller_of(request))
    return EventStream(shape.stream(events, ticket, request, fields.wants_usage), ticket)


@dataclass(frozen=True)
class CompletionForm:
    """The form of a completion's responses."""

    identity: str
    created: int
    model: str
    service: Service

    def whole(self, found: Sequence[Continued], wanted: Sequence[Continuing]) -> dict[str, Any]:
        """The whole response."""
        choices: list[dict[str, Any]] = []
        for continued, asked in zip(found, wanted, strict=True):
            for written in continued.results:
                odds = [*continued.echoed, *written.odds]
                choices.append({
                    "index": len(choices),
                    "text": continued.text + written.text if asked.echo else written.text,
                    "logprobs": None if asked.sampling["logprobs"] is None else self._logprobs(odds),
                    "finish_reason": finish_reason(written),
                })  # fmt: skip
        return self._head(choices) | {"usage": usage(found)}

    async def stream(
        self, events: Events, ticket: Waited, request: Request, wants_usage: bool
    ) -> AsyncIterator[dict[str, Any] | str | None]:
        """The response in pieces."""
        try:
            async for piece in events.of(ticket, request):
                yield None if piece is None else self._head([self._part(piece)])
        except Left:
            return
        except Exception as error:  # noqa: BLE001 (the client is told)
            yield api_error(error).as_dict()
            return
        found: list[Continued] = ticket.future.result()
        for n, written in enumerate(r for continued in found for r in continued.results):
            ended = {"index": n, "text": "", "logprobs": None, "finish_reason": finish_reason(written)}
            yield self._head([ended])
        if wants_usage:
            yield self._head([]) | {"usage": usage(found)}
        yield DONE

    def _part(self, piece: Piece) -> dict[str, Any]:
        odds = self._logprobs(piece.odds) if piece.odds else None
        return {"index": piece.index, "text": piece.text, "logprobs": odds, "finish_reason": None}

    def _head(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.identity, "object": "text_completion", "created": self.created, "model": self.model}
        return head | {"choices": choices}

    def _logprobs(self, odds: Sequence[TokenOdds | int]) -> dict[str, Any]:
        """As completions show them; a plain id is a token that has nothing before it."""
        decode = self.service.loaded.tokenizer.decode
        tokens = [decode([o if isinstance(o, int) else o.token]) for o in odds]
        offsets = [sum(len(text) for text in tokens[:n]) for n in range(len(tokens))]
        top = [None if isinstance(o, int) else {decode([t]): p for t, p in o.likeliest} for o in odds]
        logprobs = [None if isinstance(o, int) else o.logprob for o in odds]
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def usage(found: Sequence[Continued]) -> dict[str, Any]:
    """What all prompts together took; the memory is that of the last."""
    read = sum(continued.prompt_tokens for continued in found)
    written = sum(continued.written_tokens for continued in found)
    cached = sum(continued.cached_tokens for continued in found)
    return Answered.counted(read, written, cached, found[-1].report)
