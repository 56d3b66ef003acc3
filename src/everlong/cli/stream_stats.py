"""What a scored stream showed, bin by bin, kept in a few numbers per bin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from everlong.report.stream import Bin, StreamCurve

BIN_TOKENS = 1024
_SAMPLE_TOKENS = 4096


class StreamStats:
    """Sums of negative log-likelihood, time and memory over bins of 1,024 tokens by absolute index."""

    def __init__(self) -> None:
        self.tokens = 0
        self.scored = 0
        self.nll = 0.0
        self.seconds = 0.0
        self.rss_by_tokens: list[list[int]] = []
        self._bins: list[list[int | float]] = []
        self._samples: list[int] = []

    def add(self, logprobs: Tensor, seconds: float, resident_bytes: int) -> None:
        """Count one chunk: the log-probabilities of its tokens (NaN: not scored), its time, memory after it."""
        nll = -logprobs.double().cpu()
        before = self.tokens
        count = len(nll)
        self.tokens, self.seconds = before + count, self.seconds + seconds
        at = 0
        while at < count:
            size = min(count - at, BIN_TOKENS - (before + at) % BIN_TOKENS)
            part = nll[at : at + size]
            self._add_to_bin(part[~part.isnan()], seconds * size / count, resident_bytes, (before + at) // BIN_TOKENS)
            at += size
        if before // _SAMPLE_TOKENS < self.tokens // _SAMPLE_TOKENS:
            self.rss_by_tokens.append([self.tokens, resident_bytes])

    def finish(self, resident_bytes: int) -> None:
        """Take the last sample of memory."""
        if not self.rss_by_tokens or self.rss_by_tokens[-1][0] < self.tokens:
            self.rss_by_tokens.append([self.tokens, resident_bytes])

    @property
    def nll_per_token(self) -> float:
        """Mean nats over the scored tokens; NaN without any."""
        return self.nll / self.scored if self.scored else math.nan

    def perplexity_by_position(self) -> list[list[int | float]]:
        """Rows [start, end, perplexity], the last one up to the last token."""
        return [[start, end, perplexity(nll / scored)] for start, end, nll, scored, *_ in self._rows() if scored]

    def curve(self, label: str) -> StreamCurve:
        """The bins, as the plots take them."""
        return StreamCurve(label, tuple(Bin(*row) for row in self._rows()))

    def csv(self) -> str:
        """A line for each bin: perplexity in it and up to its end, time per token and memory."""
        lines = ["start,end,perplexity,running_perplexity,ms_per_token,resident_bytes"]
        total = 0.0
        count = 0
        for start, end, nll, scored, seconds, resident in self._rows():
            total = total + nll
            count = count + scored
            here, running = (perplexity(n / s) if s else math.nan for n, s in ((nll, scored), (total, count)))
            lines.append(f"{start},{end},{here:.6g},{running:.6g},{1000 * seconds / (end - start):.6g},{resident}")
        return "\n".join(lines) + "\n"

    def _rows(self) -> list[tuple[int, int, float, int, float, int]]:
        """The bins as start, end, nll, scored tokens, seconds, resident bytes."""
        return [
            (i * BIN_TOKENS, min((i + 1) * BIN_TOKENS, self.tokens), nll, int(scored), seconds, int(resident))
            for i, (nll, scored, seconds, resident) in enumerate(self._bins)
        ]

    def _add_to_bin(self, nll: Tensor, seconds: float, resident_bytes: int, index: int) -> None:
        if index == len(self._bins):
            self._bins.append([0.0, 0, 0.0, 0])
        row = self._bins[index]
        total = float(nll.sum())
        row[0], row[1], row[2], row[3] = row[0] + total, row[1] + len(nll), row[2] + seconds, resident_bytes
        self.nll, self.scored = self.nll + total, self.scored + len(nll)


def perplexity(nll_per_token: float) -> float:
    """exp of it, as far as a float goes."""
    return math.exp(min(nll_per_token, 700.0))


def reset_peak() -> None:
    """Make the kernel forget the highest resident memory so far, where it lets a process do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_resident_bytes(fallback: int) -> int:
    """The highest resident memory since `reset_peak`; where there is no /proc, `fallback`."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return fallback
    rows: Any = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    line = next(rows, None)
    return int(line.split()[1]) * 1024 if line else fallback
