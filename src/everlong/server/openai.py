"""OpenAI's chat completions: what clients send, and what they are sent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError

from everlong.engine.generation import GenerationResult
from everlong.engine.sampling import Sampling
from everlong.engine.token_odds import TokenOdds
from everlong.server.asked import Answered, Asked
from everlong.server.errors import ApiError, field_error, refused
from everlong.server.forms import of_format, of_grammar
from everlong.server.messages import messages_of
from everlong.server.settings import Limits
from everlong.server.tools import parted, shown, tools_of

Fields = TypeVar("Fields", bound=BaseModel)
TEMPERATURE = 0.7
"""Unless a request names one."""
MOST_ANSWERS = 8
MOST_LIKELIEST = 20


class SamplingFields(BaseModel):
    """The fields of a request that say how an answer is written; unknown ones are passed over."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None
    session: str | None = None
    again: int | str | None = None
    return_progress: StrictBool | None = None
    grammar: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with a chunk of what was used."""
        return bool((self.stream_options or {}).get("include_usage"))

    def settings(self, limits: Limits) -> dict[str, Any]:
        """What `Sampling` takes, checked."""
        given: dict[str, Any] = {
            "max_new_tokens": self._most_tokens(limits),
            "temperature": TEMPERATURE if self.temperature is None else self.temperature,
            "stop": (),
        }
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty", "seed"):
            if (value := getattr(self, name)) is not None:
                given[name] = value
        for name, neutral in (("top_p", 1.0), ("top_k", 0)):
            value = getattr(self, name)
            if value is not None and value != neutral:
                given[name] = max(value, 0) if name == "top_k" else value
        if self.stop is not None:
            given["stop"] = tuple(text for text in ([self.stop] if isinstance(self.stop, str) else self.stop) if text)
        if self.logit_bias:
            given["logit_bias"] = _biases(self.logit_bias)
        if (form := of_grammar(self.grammar)) is not None:
            given["grammar"] = form
        Sampling(**(given | {"temperature": max(given["temperature"], 1)}))
        if given["temperature"] == 0:
            given = {name: value for name, value in given.items() if name not in ("top_p", "top_k")}
        Sampling(**given)
        return given

    def answers(self) -> int:
        """How many answers are wanted."""
        n = 1 if self.n is None else self.n
        if not 1 <= n <= MOST_ANSWERS:
            raise refused("n", f"got {n}, expected 1 to {MOST_ANSWERS}")
        return n

    def _most_tokens(self, limits: Limits) -> int:
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        wanted = getattr(self, name)
        if wanted is None:
            return limits.default_tokens
        if wanted < 1:
            raise refused(name, f"got {wanted}, expected at least 1")
        return min(wanted, limits.max_tokens)


class ChatFields(SamplingFields):
    """A request for a chat completion."""

    messages: Any = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    response_format: Any = None
    modalities: list[str] | None = None

    def asked(self, limits: Limits) -> Asked:
        """What is wanted; ApiError, with the field, for what cannot be done."""
        self._refuse()
        sampling = self.settings(limits)
        form = of_format(self.response_format, "response_format")
        if form is not None and self.grammar:
            raise refused("grammar", "an answer has one form; leave out grammar, or response_format")
        if form is not None:
            sampling["grammar"] = form
        if self.logprobs:
            likeliest = self.top_logprobs or 0
            if not 0 <= likeliest <= MOST_LIKELIEST:
                raise refused("top_logprobs", f"got {likeliest}, expected 0 to {MOST_LIKELIEST}")
            sampling["logprobs"] = likeliest
        elif self.top_logprobs:
            raise refused("top_logprobs", "has no effect without logprobs; set logprobs to true")
        offered = tools_of(self.tools, self.tool_choice)
        progress = bool(self.stream and self.return_progress)
        return Asked(messages_of(self.messages), sampling, self.answers(), _passages(self.again), offered, progress)

    def _refuse(self) -> None:
        if self.functions:
            raise refused("functions", "are not taken any more; send tools")
        if any(kind != "text" for kind in self.modalities or ()):
            raise refused("modalities", f"got {self.modalities}, expected text; the model writes text only")


def parsed(kind: type[Fields], body: Mapping[str, Any]) -> Fields:
    """The body of a request as its fields; ApiError names the first that is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise field_error(error.errors()) from None


def _passages(again: int | str | None) -> Any:
    if again is None or again == "auto":
        return again
    if isinstance(again, str) or again < 0:
        raise refused("again", f"got {again!r}, expected a number of passages (0: none), or auto")
    return again


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for token, bias in given.items():
        if not token.isdecimal():
            raise refused("logit_bias", f"{token!r} is no token id; give ids of the model's tokens")
        if not -100 <= bias <= 100:
            raise refused("logit_bias", f"got {bias} for {token}, expected -100 to 100")
        found[int(token)] = bias
    return found


def finish_reason(result: GenerationResult, calls: Sequence[Any] = ()) -> str:
    """Why an answer ended, as OpenAI calls it."""
    if calls:
        return "tool_calls"
    return "length" if result.finish == "length" else "stop"


def logprobs_of(odds: Sequence[TokenOdds], tokenizer: Any) -> dict[str, Any]:
    """The log-probabilities of tokens as chat completions show them."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8", "replace"))}

    content = [
        shown(o.token, o.logprob) | {"top_logprobs": [shown(token, p) for token, p in o.likeliest]} for o in odds
    ]
    return {"content": content, "refusal": None}


def completion(answered: Answered, asked: Asked, identity: str, model: str, tokenizer: Any) -> dict[str, Any]:
    """The whole response to a chat completion."""
    wants = asked.sampling.get("logprobs") is not None
    choices = []
    for n, result in enumerate(answered.results):
        text, calls = parted(result.text) if asked.tools else (result.text, [])
        said = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
        choices.append({
            "index": n,
            "message": said | ({"tool_calls": shown(calls)} if calls else {}),
            "logprobs": logprobs_of(result.odds, tokenizer) if wants else None,
            "finish_reason": finish_reason(result, calls),
        })  # fmt: skip
    head = {"id": identity, "object": "chat.completion", "created": int(time.time()), "model": model}
    return head | {"choices": choices, "usage": answered.usage, "system_fingerprint": None}


def chunk(
    identity: str, created: int, model: str, choices: Sequence[dict[str, Any]], usage: Any = None
) -> dict[str, Any]:
    """One event of a streamed chat completion."""
    head = {"id": identity, "object": "chat.completion.chunk", "created": created, "model": model}
    return head | {"choices": list(choices), "usage": usage, "system_fingerprint": None}


def choice(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    """A part of one answer."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def error_event(error: ApiError) -> dict[str, Any]:
    """An error in the middle of a stream."""
    return error.as_dict()
