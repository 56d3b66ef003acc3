"""`/v1/sessions/{name}/documents`: files that a session reads, in the formats of `everlong read`."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from everlong.server.body import scope_of, service_of
from everlong.server.errors import ApiError, api_error, refused
from everlong.server.service import Service
from everlong.server.streaming import Events, EventStream, result
from everlong.server.worker import Job, Left, Waited
from everlong.session.ingest import Document, is_read, read_document
from everlong.session.session import Session

router = APIRouter(prefix="/v1/sessions")
_BLOCK_BYTES = 2**20
_LONGEST_NAME = 200


@router.post("/{name}/documents")
async def read_documents(request: Request, name: str) -> Response:
    """Read the uploaded files into a session, which is made if it is not there; with stream=true says how far it is.

    What was read is kept when the client leaves, and the same upload goes on from there.
    """
    service = service_of(request)
    full = scope_of(request).full(name)
    try:
        async with request.form(max_files=100, max_part_size=_BLOCK_BYTES) as form:
            documents = [await _document(service, upload) for upload in _uploads(form)]
            wanted = form.get("stream", request.query_params.get("stream", ""))
    except HTTPException as error:
        raise refused("file", str(error.detail)) from None
    streams = str(wanted).lower() in ("true", "1")
    if not streams:
        ticket = service.submit(lambda: _read(service, full, name, documents, lambda event: None))
        return JSONResponse(await result(ticket, request, service.settings.limits.request_s))
    events = Events(service.settings.limits.request_s)
    ticket = service.submit(lambda: _read(service, full, name, documents, events.tell))
    return EventStream(_told(events, ticket, request), ticket)


async def _told(events: Events, ticket: Waited, request: Request) -> AsyncIterator[dict[str, Any] | None]:
    try:
        async for event in events.of(ticket, request):
            yield event
    except Left:
        return
    except Exception as error:  # noqa: BLE001 (the client is told)
        yield {"type": "error"} | api_error(error).as_dict()
        return
    yield {"type": "documents.read"} | ticket.future.result()


def _uploads(form: FormData) -> list[UploadFile]:
    found = [part for key, part in form.multi_items() if key in ("file", "files") and isinstance(part, UploadFile)]
    if not found:
        raise refused("file", "no file was sent; send it as multipart/form-data in the field file")
    return found


async def _document(service: Service, upload: UploadFile) -> Document:
    """An upload as a document, its text taken out of it beside the engine."""
    make = service.settings.make_document
    if make is None:
        raise ApiError(501, "file: this server reads no files", "file")
    name = file_name(upload.filename or "")
    with tempfile.TemporaryDirectory(prefix="everlong-upload-") as folder:
        path = Path(folder) / f"upload{_suffix(name)}"
        most = service.settings.limits.upload_bytes
        size = 0
        with path.open("wb") as file:
            while block := await upload.read(_BLOCK_BYTES):
                size += len(block)
                if size > most:
                    raise ApiError(413, f"file: larger than {most:,} bytes; send it in parts", "file", "too_large")
                file.write(block)
        if not size:
            raise refused("file", f"{name} is empty; send a file with text")

        def taken() -> Document:
            document = make(path, name)
            return replace(document, texts=list(document.texts), earlier=lambda digest: None)

        return await asyncio.to_thread(taken)


def file_name(given: str) -> str:
    """The name of an upload without its folders and what cannot be shown; it names a source, never a path."""
    last = re.split(r"[/\\]", given)[-1]
    return "".join(c for c in last if c.isprintable()).strip()[:_LONGEST_NAME] or "upload"


def _suffix(name: str) -> str:
    found = re.search(r"\.[A-Za-z0-9]{1,12}$", name)
    return found[0].lower() if found else ""


def _read(service: Service, full: str, name: str, documents: list[Document], tell: Callable[[Any], None]) -> Job:
    def work(session: Session) -> Job:
        begun = session.seen_tokens
        read = []
        for document in documents:
            skipped = is_read(session, document)
            if not skipped:
                yield from _paced(service, full, session, document, tell)
                service.metrics.document_tokens.inc(session.seen_tokens - begun)
            read.append({"name": document.name, "already_read": skipped})
        return {
            "object": "session.documents",
            "session": name,
            "documents": read,
            "read_tokens": session.seen_tokens - begun,
            "memory": session.report().as_dict(),
        }

    return service.jobs.with_session(full, work, create=True)


def _paced(service: Service, full: str, session: Session, document: Document, tell: Callable[[Any], None]) -> Job:
    """Read a document in pieces that hold no answer up, with checkpoints beside the engine's steps."""
    chars = sum(map(len, document.texts))

    def share(read: Session) -> float:
        """How much of the text has been read, about."""
        source = read.transcript.sources[-1]
        return round(min(1.0, read.transcript.chars(source, read.seen_tokens) / max(1, chars)), 4)

    wanted: list[bool] = []
    reading = read_document(session, document, keep=lambda: wanted.append(True))
    try:
        while True:
            session.chunk = min(service.chunk, service.pace.piece_of(session))
            with service.pace.reading(session):
                done = next(reading, None)
            if wanted:
                wanted.clear()
                yield from service.kept.checkpoint(full)
            if done is None:
                return
            tell({"type": "document.progress", "name": document.name, "tokens": done, "share": share(session)})
            yield None
    except Exception:
        reading.close()
        yield from service.kept.checkpoint(full)
        raise
    finally:
        session.chunk = service.chunk
