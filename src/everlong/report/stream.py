"""A stream read to its end while perplexity, time and resident memory are noted, place by place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlong.session.session import Session


@dataclass(frozen=True)
class Bin:
    """What reading the tokens [start, end) of a stream showed."""

    start: int
    end: int
    nll_sum: float
    """Nats over the scored tokens of the bin."""
    scored_tokens: int
    """Tokens that had a predecessor: all, but for the first of the stream."""
    seconds: float
    resident_bytes: int
    """Memory of the process after the bin."""


@dataclass(frozen=True)
class StreamCurve:
    """What reading a stream with one method showed, bin by bin."""

    label: str
    bins: tuple[Bin, ...]

    def perplexity(self, start: int, end: int) -> float:
        """exp of the mean nats over the bins within [start, end); NaN where there are none."""
        inside = [b for b in self.bins if start <= b.start and b.end <= end]
        scored = sum(b.scored_tokens for b in inside)
        return math.exp(min(sum(b.nll_sum for b in inside) / scored, 700.0)) if scored else math.nan

    def ms_per_token(self) -> float:
        """Median over the bins, in milliseconds."""
        ordered = sorted(1000 * b.seconds / (b.end - b.start) for b in self.bins)
        return ordered[len(ordered) // 2]

    def resident_bytes_after(self, tokens: int) -> int | None:
        """Resident memory when `tokens` had been read; None if no bin ends there."""
        return next((b.resident_bytes for b in self.bins if b.end == tokens), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: one row [start, end, perplexity, ms per token, resident bytes] for each bin."""
        rows = [
            [b.start, b.end, self.perplexity(b.start, b.end), 1000 * b.seconds / (b.end - b.start), b.resident_bytes]
            for b in self.bins
        ]
        return {"label": self.label, "ms_per_token": self.ms_per_token(), "bins": rows}


def read_stream(
    session: Session,
    ids: Sequence[int],
    label: str,
    chunk: int = 512,
    bin_tokens: int = 1024,
    on_chunk: Callable[[int, float], None] = lambda tokens, perplexity: None,
) -> StreamCurve:
    """The curve of scoring `ids` in pieces of at most `chunk` tokens, none across the edge of a bin.

    `on_chunk(tokens, perplexity)` is told the tokens read so far and the perplexity of the latest piece.
    """
    bins = []
    for start in range(0, len(ids), bin_tokens):
        end = min(start + bin_tokens, len(ids))
        nll_sum, scored, begun = 0.0, 0, time.perf_counter()
        for at in range(start, end, chunk):
            piece = ids[at : min(at + chunk, end)]
            logp = session.score(piece)
            known = logp[~logp.isnan()].double()
            nll_sum, scored = nll_sum - float(known.sum()), scored + known.numel()
            on_chunk(at + len(piece), math.exp(min(-float(known.mean()), 700.0)) if known.numel() else math.nan)
        bins.append(Bin(start, end, nll_sum, scored, time.perf_counter() - begun, resident_bytes()))
    return StreamCurve(label, tuple(bins))


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; where there is no /proc, the most it ever was."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
