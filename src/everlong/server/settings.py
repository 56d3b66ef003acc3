"""What a server is told when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from everlong.errors import ConfigError
from everlong.session.ingest import Document

MakeDocument = Callable[[Path, str], Document]
"""Makes a document of an uploaded file and its name."""


@dataclass(frozen=True)
class Limits:
    """What one server takes on at most."""

    body_bytes: int = 64 * 2**20
    upload_bytes: int = 1024 * 2**20
    queue: int = 64
    """Requests that are being worked on or wait."""
    request_s: float = 3600.0
    max_tokens: int = 16_384
    """Tokens of one answer."""
    default_tokens: int = 1024
    """Tokens of an answer whose request names no limit."""


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, who may use it and how much memory open sessions take; ConfigError for a wrong one."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    memory_bytes: int | None = None
    max_gap: float = 4.0
    limits: Limits = field(default_factory=Limits)
    make_document: MakeDocument | None = None
    """None: files cannot be read."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port={self.port}: expected 1 to 65535, or 0 for any that is free")
        if not self.max_gap > 1:
            raise ConfigError(f"max_gap={self.max_gap}: must be above 1 (steps of answers alone that a gap may last)")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ConfigError(f"memory={self.memory_bytes}: must be at least 1 (bytes of all open sessions)")
        if not self.keys and not is_loopback(self.host):
            raise ConfigError(
                f"host={self.host}: others can reach this address; give --api-key-file FILE, or --host 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
