"""The loop of `everlong chat`: lines in, answers and the results of commands out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from everlong.errors import EverlongError, InputError, nearest

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.models.load import Loaded
    from everlong.session.chat import Chat

_HELP = """/report      what the session remembers, and in how many bytes
/save FILE   keep the conversation in a file
/load FILE   go on with a kept conversation
/undo        take the last turn back
/reset       begin anew
/exit        leave (so does the end of the input)"""


class Conversation:
    """One conversation: reads lines until they end or /exit comes, and answers each."""

    def __init__(self, chat: Chat, loaded: Loaded, sampling: dict[str, Any], console: Console) -> None:
        self._chat, self._loaded, self._sampling, self._console = chat, loaded, sampling, console
        self._undo = chat._undo
        self._commands = {
            "report": self._report,
            "save": self._save,
            "load": self._load,
            "undo": self._take_back,
            "reset": self._reset,
            "help": lambda _: print(_HELP, file=sys.stderr),
            "exit": lambda _: None,
        }

    def run(self) -> None:
        """Answers until the input ends; KeyboardInterrupt at the prompt leaves."""
        self._console.note("Ctrl-C cuts an answer short; /help lists the commands, /exit leaves.")
        for line in _lines():
            text = line.strip()
            if text == "/exit":
                break
            if text:
                self._respond(text)
        self._console.note(f"{self._chat.session.report()}")
        self._console.note("Next: /save FILE keeps a conversation, /load FILE goes on with it.")
