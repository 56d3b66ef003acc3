"""What a stream has seen, keeps and lost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MemoryReport:
    """Counts in tokens and bytes; `seen = sink + window + stored + compressed + dropped` always holds.

    `retrieved_tokens` is how many stored tokens the newest token attended to; `compressed_tokens` are
    there only as a part of a memory of constant size. Of `ids_tokens` of the stored ones only ids and recall rows are
    kept: they are attended to when they are read again for a question, as `reread_tokens` were for the last reply.
    `state_bytes` of those on the device are states of layers that hold all that was read in compressed form, what left
    the window or was forgotten included. `bytes` counts what the cache holds per tier: `device` where the model
    computes, `host` memory, `disk`; `budget_bytes` the limits that were set. The store's traffic counts from when it
    was opened: bytes read from the disk and written to it, and how often a block that came back was found in host
    memory (hit) or read from the disk (miss).
    """

    method: str
    seen_tokens: int
    sink_tokens: int
    window_tokens: int
    stored_tokens: int = 0
    dropped_tokens: int = 0
    retrieved_tokens: int = 0
    bytes: dict[str, int] = field(default_factory=lambda: {"device": 0, "host": 0, "disk": 0})
    budget_bytes: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0
    written_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    compressed_tokens: int = 0
    ids_tokens: int = 0
    reread_tokens: int = 0
    state_bytes: int = 0

    @property
    def cache_hit_rate(self) -> float | None:
        """The share of hits; None before the first block came back."""
        asked = self.cache_hits + self.cache_misses
        return self.cache_hits / asked if asked else None

    def as_dict(self) -> dict[str, Any]:
        """All fields and the hit rate by name, ready for JSON."""
        return dataclasses.asdict(self) | {"cache_hit_rate": self.cache_hit_rate}

    def __str__(self) -> str:
        held = " + ".join(f"{n / 2**20:.1f} MiB {tier}" for tier, n in self.bytes.items() if n) or "0 bytes"
        compressed = f" + compressed {self.compressed_tokens:,}" if self.compressed_tokens else ""
        stored = f"{self.stored_tokens:,}" + (f" (as ids {self.ids_tokens:,})" if self.ids_tokens else "")
        states = f"; linear layers: {self.state_bytes / 2**20:.1f} MiB" if self.state_bytes else ""
        states += ", hold all that was read in compressed form" if states else ""
        again = f" (read again {self.reread_tokens:,})" if self.reread_tokens else ""
        return (
            f"{self.method}: seen {self.seen_tokens:,} = sinks {self.sink_tokens:,} + window {self.window_tokens:,}"
            f" + stored {stored}{compressed} + dropped {self.dropped_tokens:,} tokens{again}; {held}{states}"
        )
