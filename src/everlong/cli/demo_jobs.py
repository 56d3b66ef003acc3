"""What the demo runs in processes of their own: a stream read with one method, and a text with a key hidden in it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from everlong.cache.report import MemoryReport
from everlong.cli.console import Advance, Console
from everlong.cli.documents import document
from everlong.cli.groups import Hardware, ModelChoice
from everlong.cli.model_setup import load_model
from everlong.cli.stream_stats import StreamStats, perplexity
from everlong.evaluate.haystack import KEY, NOISE, OPENING
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.report.stream import StreamCurve, resident_bytes
from everlong.session.ingest import read_document
from everlong.session.session import Session

KEPT = "demo"
"""The name of the session that remembers the key."""


class Written(NamedTuple):
    """What a model wrote, how long a token took, and the report after it."""

    text: str
    tokens: int
    seconds_per_token: float
    report: MemoryReport


def read_stream(
    model: str, method: Method, ids: list[int], new_tokens: int, advance: Advance
) -> tuple[StreamCurve, Written | None]:
    """What reading `ids` showed, and what the model wrote after them (nothing for 0 `new_tokens`)."""
    with Session(_loaded(model), method) as session:
        curve = _curve(session, ids, advance)
        return curve, _write_on(session, new_tokens) if new_tokens else None


def read_haystack(model: str, method: Method, file: Path, store: Path, advance: Advance) -> dict[str, Any]:
    """Read `file` into a session that is kept in `store`: its tokens, the seconds, the report."""
    with Session(_loaded(model), method, store=store, name=KEPT) as session:
        start = time.perf_counter()
        for done in read_document(session, document(file, Console(quiet=True)), every=512):
            advance(done, f"{done / (time.perf_counter() - start):.0f} tokens/s")
        seconds = time.perf_counter() - start
        return {"tokens": session.seen_tokens, "seconds": seconds, "report": session.report().as_dict()}


def haystack(tokenizer: Any, tokens: int, key: int, depth: float) -> tuple[str, tuple[int, int]]:
    """A text of about `tokens` with `key` hidden at `depth` (0 start, 1 end), and where, in characters."""
    repeats = max(1, tokens // len(tokenizer(NOISE, add_special_tokens=False)["input_ids"]))
    before = OPENING + NOISE * round(repeats * depth)
    hidden = KEY.format(key=key)
    text = before + hidden + NOISE * (repeats - round(repeats * depth))
    return text, (len(before), len(before) + len(hidden))


@functools.lru_cache(maxsize=1)
def _loaded(model: str) -> Loaded:
    return load_model(ModelChoice(model=model), Hardware(), Console(quiet=True))


def _curve(session: Session, ids: list[int], advance: Advance) -> StreamCurve:
    tally = StreamStats()
    for logprobs, seconds in _timed(session.score_stream(ids)):
        tally.add(logprobs, seconds, resident_bytes())
        advance(tally.tokens, f"perplexity {perplexity(tally.nll_per_token):.2f}")
    kept = "+".join(str(value) for value in session.method.as_dict().values())
    return tally.curve(f"{session.method.name} {kept}".strip())


def _timed(parts: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Each part with the seconds that it took."""
    begun = time.perf_counter()
    for part in parts:
        yield part, time.perf_counter() - begun
        begun = time.perf_counter()


def _write_on(session: Session, new_tokens: int) -> Written:
    result = session.generate(None, max_new_tokens=new_tokens, temperature=0.7, top_p=0.9, seed=0)
    return Written(result.text, len(result.token_ids), result.seconds_per_token, session.report())
