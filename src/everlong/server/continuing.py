"""A text gone on from as a job: read as it is, scored where its log-probabilities are wanted, written on."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from everlong.engine.engine import Engine
from everlong.engine.generation import GenerationResult
from everlong.engine.stream import let_go
from everlong.engine.token_odds import TokenOdds, odds_of
from everlong.engine.writing import WritingStream
from everlong.library.journal import Kind, Run
from everlong.server.pace import Pace
from everlong.server.pieces import Piece, PieceTeller, Progress, Tell, finished
from everlong.server.worker import Ready
from everlong.session.session import Session
from everlong.text.inputs import id_pieces
from everlong.text.transcript import PROMPT


@dataclass(frozen=True)
class Continuing:
    """A prompt, a text or ids, and what is wanted of it; not `writes`: its log-probabilities alone."""

    prompt: str | list[int]
    sampling: dict[str, Any]
    n: int = 1
    echo: bool = False
    writes: bool = True


@dataclass(frozen=True)
class Continued:
    """What was written behind a prompt; `echoed` has the odds of its own tokens (an id: nothing stood before it)."""

    results: Sequence[GenerationResult]
    text: str
    echoed: Sequence[TokenOdds | int]
    prompt_tokens: int
    cached_tokens: int
    report: dict[str, Any]
    runs: Sequence[Run] = ()
    """What the session has read of it all, and how."""

    @property
    def written_tokens(self) -> int:
        """Tokens written."""
        return sum(len(result.token_ids) for result in self.results)


def go_on(
    engine: Engine, pace: Pace, session: Session, asked: Continuing, tell: Tell, first: int
) -> Generator[Ready | None, None, Continued]:
    """The texts written behind a prompt, numbered from `first`; the session holds the prompt and the first of them."""
    begun = session.seen_tokens
    found = id_pieces(asked.prompt, session.tokenizer, session.vocabulary, begun == 0, session.allow_special)
    ids = torch.cat(list(found))
    echoed: list[TokenOdds | int] = []
    twins: list[WritingStream] = []
    scored = asked.echo and asked.sampling["logprobs"] is not None
    prompt: list[int] | None = ids.tolist()
    read_as: Kind = "prompt"
    try:
        if scored or asked.n > 1 or not asked.writes:
            # As a crash has it read again, of the same source and with nothing recalled.
            read_as = "text"
            let_go(session.runner)
            session.source = PROMPT
            for piece in ids.split(pace.piece):
                echoed += _read(session, piece, asked.sampling["logprobs"] if scored else None)
                yield None
            prompt = None
        results: list[GenerationResult] = []
        if asked.writes:
            twins += [session.fork() for _ in range(asked.n - 1)]
            streams = [session, *twins]
            requests: list[Any] = []
            for n, stream in enumerate(streams):
                seed = asked.sampling.get("seed")
                own = {"seed": None if seed is None else seed + n}
                told = PieceTeller(n, _numbered(tell, first), requests)
                requests.append(engine.submit(stream, prompt, told, **(asked.sampling | own)))
            results = yield from finished(requests)
        else:
            results = [GenerationResult("", [], "length", 0.0)]
    finally:
        for twin in twins:
            twin.close()
    text = asked.prompt if isinstance(asked.prompt, str) else session.tokenizer.decode(asked.prompt)
    report = session.report().as_dict()
    runs: list[Run] = [(read_as, ids.tolist()), ("answer", results[0].token_ids)]
    return Continued(results, text, echoed, begun + len(ids), begun, report, runs)


def _numbered(tell: Tell, first: int) -> Tell:
    def told(piece: Piece | Progress) -> None:
        tell(replace(piece, index=first + piece.index) if isinstance(piece, Piece) else piece)

    return told


def _read(session: Session, ids: Tensor, likeliest: int | None) -> list[TokenOdds | int]:
    """Let a session read ids; their odds, if they are wanted."""
    if likeliest is None:
        session.feed(ids, source=PROMPT)
        return []
    before = session.prediction
    _, logits = session.score(ids, logits=True)
    rows = [before, *logits[:-1]]
    return [
        int(token) if row is None else odds_of(row, int(token), likeliest) for row, token in zip(rows, ids, strict=True)
    ]
