"""What `everlong doctor` takes."""

from __future__ import annotations

from dataclasses import dataclass

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Show what there is, what works and what it costs.

    The machine, the versions, the model, and which methods work on it: each is attached to the model, which checks
    itself; -o fields go to the methods that have them. Many streams are read in one forward where the model can be
    packed. A cost is what the cache takes from the first token on, however long the stream.
    """

    model: groups.ModelChoice
    option: groups.Fields = None
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: groups.Config = None
    output: groups.Output
