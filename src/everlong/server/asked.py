"""What is asked of the model, and what it answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from everlong.engine.generation import GenerationResult
from everlong.engine.token_odds import TokenOdds
from everlong.library.journal import Run
from everlong.session.asking import Again
from everlong.text.chat_template import Message
from everlong.text.transcript import Citation


@dataclass(frozen=True)
class Asked:
    """What is wanted: the messages, how they are answered and how often."""

    messages: Sequence[Message]
    sampling: dict[str, Any]
    n: int = 1
    again: Again | None = None
    tools: Sequence[dict[str, Any]] = ()
    """The tools that the model may call."""
    progress: bool = False
    """Whether it is to be told how far the messages are read."""


@dataclass(frozen=True)
class Answered:
    """What was written, and what it took."""

    results: Sequence[GenerationResult]
    prompt_tokens: int
    cached_tokens: int
    report: dict[str, Any]
    citations: Sequence[Citation] = ()
    """The passages that the first answer can be checked against, best first."""
    passages: Sequence[dict[str, Any]] = ()
    """What was read of the stored tokens for the first answer (passages_read.py)."""
    runs: Sequence[Run] = ()
    """What the session has read of it all, and how."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, but for what was read, and where the passages stand."""
        found = asdict(replace(self, citations=(), passages=(), runs=()))
        return {name: value for name, value in found.items() if name not in ("citations", "passages", "runs")}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        results = [
            GenerationResult(**result | {"odds": [_odds(**odds) for odds in result["odds"]]})
            for result in found["results"]
        ]
        return cls(**found | {"results": results})

    @property
    def usage(self) -> dict[str, Any]:
        """As OpenAI's clients know it, with what the memory holds."""
        written = sum(len(result.token_ids) for result in self.results)
        return self.counted(self.prompt_tokens, written, self.cached_tokens, self.report)

    @staticmethod
    def counted(read: int, written: int, cached: int, report: dict[str, Any]) -> dict[str, Any]:
        """Tokens of the prompt, of the answer and those that needed no reading, with what the memory holds."""
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached},
            "memory": report,
        }


def _odds(token: int, logprob: float, likeliest: Sequence[Sequence[Any]]) -> TokenOdds:
    return TokenOdds(token, logprob, tuple((int(other), float(p)) for other, p in likeliest))
