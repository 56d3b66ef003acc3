"""The tools of `everlong mcp`: read, ask, search, forget and sessions over the kept sessions of a store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from everlong.cli.account import account, lost
from everlong.cli.console import Console
from everlong.cli.documents import choose, document
from everlong.errors import EverlongError, InputError, one_line
from everlong.library.library import Library
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.ingest import Document, is_read, read_document
from everlong.session.losses import losses
from everlong.session.search import search_kept
from everlong.session.session import Session
from everlong.text.places import Place, found_in
from everlong.text.source_names import short_names
from everlong.text.transcript import ANSWER, PROMPT, Citation
from everlong.version import __version__

T = TypeVar("T")
SessionArgument = Annotated[str, Field(description="The name of the session.")]
_PLACE = ("name", "page", "chapter", "heading", "line")
_CONSOLE = Console(quiet=True)
_ABOUT = """\
A memory without end for texts that are too long to be sent. `read` files or a text into a session once; then `ask` it
in plain language, or `search` it by words, which is fast and exact. Answers of a small model may be wrong: check them
against the passages that come with them. `sessions` lists what is kept."""


class LibraryTools:
    """What the tools do; one at a time, in threads beside the loop that talks to the client."""

    def __init__(
        self, store: Path, model_of: Callable[[str], Loaded], method: Method, chunk: int, roots: Sequence[Path]
    ) -> None:
        self._store = store
        self._model_of = model_of
        self._method = method
        self._chunk = chunk
        self._roots = roots
        self._turn = anyio.Lock()
        self._working = threading.Lock()

    async def sessions(self) -> dict[str, Any]:
        """List the kept sessions: their names, how many tokens each has read, and what."""
        return await self._done(self._sessions)

    async def read(
        self,
        session: Annotated[str, Field(description="The name of the session, which is made if it is not there.")],
        ctx: Context,
        path: Annotated[str, Field(description="A file, a folder or a pattern to read.")] = "",
        text: Annotated[str, Field(description="A text to read, in place of a path.")] = "",
        name: Annotated[str, Field(description="What the text is called in citations.")] = "",
    ) -> dict[str, Any]:
        """Read files or a text into a session, where they are kept; what was read before is skipped.

        It may take minutes for a book. Where it is interrupted, the same call goes on.
        """
        async with self._turn:
            steps = await self._run(lambda: self._reading(session, path, text, name))
            result: dict[str, Any] = {}
            try:
                while (step := await self._run(lambda: next(steps, None))) is not None:
                    if "tokens" in step:
                        result = step
                    else:
                        await ctx.report_progress(step["read"], message=f"{step['read']:,} tokens of {step['name']}")
            finally:
                with anyio.CancelScope(shield=True):
                    await self._run(steps.close)
            return result

    async def ask(
        self,
        session: SessionArgument,
        question: Annotated[str, Field(description="A question in plain language, in the words of the text if known.")],
        max_tokens: Annotated[int, Field(ge=1, le=4096, description="Tokens of the answer at most.")] = 256,
    ) -> dict[str, Any]:
        """Ask a session about what it has read: an answer, and the passages that it can be checked against."""
        return await self._done(partial(self._ask, session, question, max_tokens))

    async def search(
        self,
        session: SessionArgument,
        words: Annotated[str, Field(description="Words that the passages should hold; rare ones count most.")],
        top: Annotated[int, Field(ge=1, le=50, description="How many passages.")] = 5,
    ) -> dict[str, Any]:
        """Find the passages of a session that hold some words, with where they stand; no model is needed."""
        return await self._done(partial(self._search, session, words, top))

    async def forget(
        self,
        session: SessionArgument,
        source: Annotated[str, Field(description="A source by its name, as `sessions` lists it.")],
        start: Annotated[int | None, Field(ge=0, description="Its first character to be forgotten.")] = None,
        end: Annotated[int | None, Field(ge=1, description="The character after the last one.")] = None,
    ) -> dict[str, Any]:
        """Forget a source, or a part of it: it is overwritten on the disk and never comes back."""
        return await self._done(partial(self._forget, session, source, start, end))

    async def _done(self, work: Callable[[], T]) -> T:
        async with self._turn:
            return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        """What work returns that is done in a thread; an error of everlong's is told to the client in one line."""

        def alone() -> T:
            with self._working:
                return work()

        try:
            return await anyio.to_thread.run_sync(alone)
        except EverlongError as error:
            raise ToolError(one_line(error, 500)) from error

    # In a thread.

    def _sessions(self) -> dict[str, Any]:
        if not (self._store / "everlong.db").is_file():
            return {"sessions": []}
        library = Library(self._store)
        found = []
        for entry in sorted(library.entries(), key=lambda entry: -entry.updated):
            names = short_names(s.name for s in library.sources(entry) if s.name not in (PROMPT, ANSWER))
            facts = {"tokens": library.tokens(entry), "bytes": library.bytes(entry), "model": entry.model}
            found.append({"name": entry.name, "sources": list(names.values())} | facts)
        return {"sessions": found}

    def _reading(self, name: str, path: str, text: str, called: str) -> Generator[dict[str, Any]]:
        """Steps that say how far reading is; the last one is the result."""
        if bool(path) == bool(text.strip()):
            raise InputError("read: give either a path or a text")
        documents = [_note(text, called)] if text.strip() else self._documents(path)
        return self._read(name, documents)

    def _read(self, name: str, documents: Sequence[Document]) -> Generator[dict[str, Any]]:
        with self._opened(name, create=True) as session:
            before = session.seen_tokens
            skipped = []
            for one in documents:
                if is_read(session, one):
                    skipped.append(one.name)
                    continue
                shown = short_names([one.name, *(s.name for s in session.transcript.sources)])[one.name]
                try:
                    with closing(read_document(session, one)) as reading:
                        for done in reading:
                            yield {"name": shown, "read": done}
                except GeneratorExit:
                    session.checkpoint()
                    raise
            session.checkpoint()
            report = session.report()
            read = session.seen_tokens - before
            yield {"session": name, "read_tokens": read, "read_before": skipped, "lost": lost(losses(session))} | {
                "tokens": report.seen_tokens,
                "memory": str(report),
            }

    def _ask(self, name: str, question: str, max_tokens: int) -> dict[str, Any]:
        with self._opened(name) as session:
            with closing(session.ask(question, max_new_tokens=max_tokens)) as reply:
                text = reply.text
            cut = reply.result.finish == "length"
            passages = [_shown(cited) | {"share": round(cited.mass, 3)} for cited in reply.citations(5)]
            looked = account(session, reply.recall, reply.report)
            return {"answer": text, "cut_off": cut, "passages": passages, "looked_at": looked}

    def _search(self, name: str, words: str, top: int) -> dict[str, Any]:
        library = Library(self._store, create=False)
        entry = library.entry(name)
        found = search_kept(library, entry, self._model_of(name).tokenizer, words, top)
        return {"passages": [_shown(place) | {"text": passage.text} for passage, place in found]}

    def _forget(self, name: str, source: str, start: int | None, end: int | None) -> dict[str, Any]:
        with self._opened(name) as session:
            return asdict(session.forget(source, start, end))

    def _opened(self, name: str, create: bool = False) -> Session:
        library = Library(self._store, create=create)
        if create and library.find(name) is None:
            return Session(self._model_of(name), self._method, self._chunk, self._store, name)
        library.entry(name)
        return Session.open(self._store, name, self._model_of(name), self._chunk)

    def _documents(self, path: str) -> list[Document]:
        found = choose([path])
        for file in found.files:
            if self._roots and not any(file.path.resolve().is_relative_to(root) for root in self._roots):
                roots = ", ".join(map(str, self._roots))
                raise InputError(f"{file.called}: outside of {roots} (--root); give a path in it")
        return [document(file, _CONSOLE) for file in found.files]


def server(tools: LibraryTools) -> MCPServer:
    """The MCP server over the tools."""
    found = MCPServer("everlong", instructions=_ABOUT, version=__version__, log_level="WARNING")
    for tool in (tools.sessions, tools.read, tools.ask, tools.search, tools.forget):
        found.add_tool(tool)
    return found


def _note(text: str, called: str) -> Document:
    """A text as a document; without a name it is called by its content."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    places: list[Place] = []
    name = called.strip() or f"note {digest[:8]}"
    return Document(name, f"{digest}:{len(text)}", list(found_in([text], places)), places)


def _shown(cited: Citation) -> dict[str, Any]:
    """A passage, and where it stands as people cite it."""
    place = {key: getattr(cited, key) for key in _PLACE if getattr(cited, key) is not None}
    return place | {"sentence": cited.sentence or cited.text, "start": cited.start, "end": cited.end}
