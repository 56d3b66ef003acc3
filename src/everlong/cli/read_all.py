"""Documents read into a session one after the other, with how far each is and what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from everlong.cli.amounts import duration, several
from everlong.cli.console import Console
from everlong.cli.cut_off import Stop
from everlong.cli.stream_stats import peak_resident_bytes, reset_peak
from everlong.report.stream import resident_bytes
from everlong.session.ingest import Document, differs, grown, is_read, read_before, read_document, tokens_of
from everlong.session.session import Session
from everlong.text.source_names import short_names


def read_all(
    session: Session, documents: Sequence[Document], foretold: Mapping[str, int], console: Console
) -> dict[str, Any]:
    """Read the documents and keep them; what was read, what it took and the memory report.

    `foretold` has the tokens of documents that were counted already, by name.
    """
    reset_peak()
    start = time.perf_counter()
    before = session.seen_tokens
    shown = short_names([d.name for d in documents] + [s.name for s in session.transcript.sources])
    for document in documents:
        name = shown[document.name]
        if is_read(session, document):
            console.note(f"{name}: read already")
        else:
            _read_one(session, document, name, foretold.get(document.name), console)
    session.checkpoint()
    seconds = time.perf_counter() - start
    read_tokens = session.seen_tokens - before
    return {
        "tokens": session.seen_tokens,
        "read_tokens": read_tokens,
        "seconds": seconds,
        "tokens_per_s": read_tokens / seconds,
        "peak_rss_bytes": peak_resident_bytes(resident_bytes()),
        "report": session.report().as_dict(),
        "memory": str(session.report()),
    }


def _read_one(session: Session, document: Document, name: str, total: int | None, console: Console) -> None:
    """Read one document with progress that begins where an earlier reading ended; a line says what it took."""
    begun = read_before(session, document)
    if begun:
        console.note(f"{name}: goes on behind {several(begun, 'token')}")
    elif grown(session, document):
        console.note(f"{name}: has grown; what was added is read")
    elif differs(session.transcript.sources, document):
        console.note(f"{name}: has changed; what it was is dropped, texts after it keep traces (--reread)")
    if total is None and console.shows_progress:
        total = tokens_of(session, document)
    start = time.perf_counter()
    read = 0
    took = 0.0
    with Stop() as stop, console.progress(name, total, begun=begun) as advance:

        def tell(done: int) -> None:
            nonlocal read, took
            read = done - begun
            took = time.perf_counter() - start
            advance(done, f"{read / took:,.0f} tokens/s")

        stop.through(read_document(session, document), tell)
    rate = f" ({read / took:,.0f} tokens/s)" if took else ""
    console.note(f"{name}: {several(read, 'token')} read in {duration(took)}{rate}")
