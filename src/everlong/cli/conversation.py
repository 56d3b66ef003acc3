"""The loop of `everlong chat`: lines in, answers and the results of commands out."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from everlong.cli.account import account, lost
from everlong.cli.amounts import several
from everlong.cli.cite import quotation_lines
from everlong.cli.console import Console
from everlong.cli.generate import as_json
from everlong.cli.kept_chats import Chats
from everlong.errors import EverlongError, InputError, nearest
from everlong.models.load import Loaded
from everlong.session.chat import Chat
from everlong.session.losses import losses
from everlong.session.quotations import quotations
from everlong.session.session import Session

_HELP = """/report      what the session remembers, and in how many bytes
/save FILE   keep the conversation in a file too
/load FILE   go on with a kept conversation
/undo        take the last turn back
/reset       begin anew; what was said so far stays kept
/help        these lines
/exit        leave (so does the end of the input)"""
_COMMANDS = tuple(line[1:].split()[0] for line in _HELP.splitlines())


class Conversation(AbstractContextManager["Conversation"]):
    """Answers lines in `session`, which it closes at the end, until they end or /exit comes."""

    def __init__(
        self,
        session: Session,
        loaded: Loaded,
        system: str | None,
        undo: int,
        sampling: dict[str, Any],
        console: Console,
        again: Any = None,
        chats: Chats | None = None,
        command: str = "everlong chat",
        report: bool = False,
    ) -> None:
        self._tells_report = report
        self._chats = chats
        self._called = command
        self._loaded = loaded
        self._system = system
        self._undo = undo
        self._again = again
        self._sampling = sampling
        self._console = console
        self._begin(session)

    def run(self) -> None:
        """Answer every line; an interrupt cuts what it is about short. What is kept is said in any case."""
        self._console.note("Ctrl-C cuts an answer short, /help lists the commands, /exit leaves.")
        try:
            for line in lines():
                text = line.strip()
                if text == "/exit":
                    break
                try:
                    self._respond(text)
                except EverlongError as error:
                    print(f"everlong: {error}", file=sys.stderr, flush=True)
                except KeyboardInterrupt:
                    print("\neverlong: interrupted; nothing of this turn was kept", file=sys.stderr, flush=True)
        finally:
            self._tell_memory()
            self._console.note(self._closing_words())

    def _tell_memory(self) -> None:
        """What the session has lost; the whole report where it is wanted."""
        report = self._session.report()
        self._console.note(f"{several(report.seen_tokens, 'token')} seen; {lost(losses(self._session))}")
        if self._tells_report:
            self._console.note(str(report))

    def _closing_words(self) -> str:
        """Where the conversation is, and what goes on with it."""
        name = self._session.keeping.name
        if name is None:
            return "Next time: /save FILE keeps a conversation, /load FILE goes on with it."
        if not self._session.seen_tokens:
            return f"Nothing was said.\nNext: {self._called} --list"
        return f"Kept as {name}; --list shows all.\nNext: {self._called} --session {shlex.quote(name)}"

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def _leave(self) -> None:
        """Close the session; a kept one in which nothing was said is deleted."""
        session = self._session
        name = None if session.seen_tokens else session.keeping.name
        session.close()
        if name is not None and self._chats is not None:
            self._chats.delete(name)

    def _begin(self, session: Session) -> None:
        stays = session.kept and session.method.answers
        if session.conversing and self._system is not None:
            self._console.warn("system: this conversation was begun before; it goes on with its own system prompt")
        self._chat = Chat(session, self._system, 0 if stays else self._undo, self._again)
        self._session = session

    def _keep(self) -> None:
        """Keep the conversation as it is now, if it is one that is kept."""
        if self._session.kept:
            self._session.checkpoint()

    def _respond(self, text: str) -> None:
        """Do what one line asks for."""
        if text.startswith("/"):
            self._command(*text[1:].split(maxsplit=1))
        elif text:
            self._answer(text)

    def _answer(self, text: str) -> None:
        """Print the answer as it comes; an interrupt ends it there."""
        seed = self._sampling["seed"]
        each_turn = {"seed": None if seed is None else seed + self._chat.turns}
        turn = self._chat.stream(text, **self._sampling | each_turn)
        try:
            for piece in turn:
                if not self._console.json:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            turn.close()
            self._console.note("\n(cut short)")
        if self._console.json:
            self._console.result(as_json(turn.result, self._session))
        else:
            print(flush=True)
            self._account(turn.result.text, text)
        self._keep()

    def _account(self, answer: str, question: str) -> None:
        """What was looked at for the answer and what it quotes, where passages came back for it."""
        if self._chat.recall is None:
            return
        for line in quotation_lines(quotations(self._session.transcript, answer, question)):
            self._console.note(line)
        self._console.note(account(self._session, self._chat.recall, self._session.report()))

    def _command(self, name: str = "", argument: str = "") -> None:
        """Do what a line that begins with / asks for."""
        if name not in _COMMANDS:
            raise InputError(f"/{name}: no such command; {nearest(name, _COMMANDS)}")
        if name in ("save", "load") and not argument:
            raise InputError(f"/{name}: which file? write /{name} FILE")
        if name == "help":
            print(_HELP, file=sys.stderr, flush=True)
        elif name == "report":
            self._report()
        elif name == "save":
            self._chat.settle()
            print(f"Wrote {self._session.save(argument)}.", file=sys.stderr, flush=True)
        elif name == "load":
            self._load(argument)
        elif name == "undo":
            self._take_back()
        else:
            self._begin_anew()
            print("Begun anew.", file=sys.stderr, flush=True)

    def _take_back(self) -> None:
        """Take the last turn back, on the disk too."""
        if self._session.kept and self._session.method.answers:
            raise InputError(
                f"/undo: what {self._session.method.name} has stored on the disk only goes forward; begin the "
                "conversation with --no-keep to take turns back"
            )
        taken = self._chat.undo()
        print("Taken back." if taken else "There is no turn to take back.", file=sys.stderr, flush=True)
        self._keep()

    def _begin_anew(self) -> None:
        """Begin a conversation; one that is kept stays as it is, under its name."""
        old = self._session
        if self._chats is None or not old.kept:
            self._chat.reset()
            return
        self._chat.settle()
        new = self._chats.opened(None, self._loaded, old.method, old.chunk, old.allow_special)
        self._leave()
        self._begin(new)

    def _report(self) -> None:
        """Print the memory report."""
        report = self._session.report()
        if self._console.json:
            self._console.result(report.as_dict())
        else:
            print(report, flush=True)

    def _load(self, path: str) -> None:
        """Go on with the conversation in the file; the one so far is left only when that is read."""
        old = self._session
        loaded = Session.load(path, self._loaded, chunk=old.chunk, allow_special=old.allow_special)
        self._leave()
        self._begin(loaded)
        print(f"Going on after {loaded.seen_tokens:,} tokens.", file=sys.stderr, flush=True)
        self._console.note("From here on /save FILE keeps the conversation.")


def lines() -> Iterator[str]:
    """The lines of stdin, with a prompt if it is a terminal."""
    stdin: Any = sys.stdin
    stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    interrupted = False
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if interrupted:
                print()
                return
            interrupted = True
            print("\n(Ctrl-C again leaves, as Ctrl-D does)", file=sys.stderr, flush=True)
        else:
            interrupted = False
            yield line
