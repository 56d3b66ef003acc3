"""What reading a stream showed, place by place: perplexity, time and resident memory."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    @property
    def ms_per_token(self) -> float:
        """Milliseconds that a token of the bin took."""
        return 1000 * self.seconds / (self.end - self.start)


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
        """Median over the bins."""
        return statistics.median(b.ms_per_token for b in self.bins)

    def resident_bytes_after(self, tokens: int) -> float:
        """Resident memory when `tokens` had been read; NaN if no bin ends there."""
        return next((float(b.resident_bytes) for b in self.bins if b.end == tokens), math.nan)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: one row [start, end, perplexity, ms per token, resident bytes] for each bin."""
        rows = [[b.start, b.end, self.perplexity(b.start, b.end), b.ms_per_token, b.resident_bytes] for b in self.bins]
        return {"label": self.label, "ms_per_token": self.ms_per_token(), "bins": rows}


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; where there is no /proc, the most it ever was."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
