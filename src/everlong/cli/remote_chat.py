"""`everlong chat --server URL`: the conversation is on a server, which keeps it."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from everlong.cli.console import Console
from everlong.cli.conversation import lines
from everlong.errors import EverlongError, InputError, one_line

KEY = "EVERLONG_API_KEY"
"""The variable with the key of a server that wants one."""


class RemoteChat:
    """A conversation in a session of a server."""

    def __init__(
        self, server: str, session: str | None, system: str | None, sampling: dict[str, Any], console: Console
    ) -> None:
        if urllib.parse.urlsplit(server).scheme not in ("http", "https"):
            raise InputError(f"server {server!r}: expected an address such as http://127.0.0.1:8000")
        self._server = server.rstrip("/").removesuffix("/v1")
        self.session = session or f"chat-{secrets.token_hex(4)}"
        self._system = system
        self._console = console
        given = {name: value for name, value in sampling.items() if value is not None}
        self._fields = given | {"max_tokens": given.pop("max_new_tokens"), "stop": list(given["stop"])}

    def run(self) -> None:
        """Answer every line until they end or /exit comes; an interrupt ends an answer."""
        self._console.note(f"Session {self.session} on {self._server}; Ctrl-C cuts an answer short, /exit leaves.")
        for line in lines():
            text = line.strip()
            if text == "/exit":
                break
            if not text:
                continue
            try:
                self._answer(text)
            except EverlongError as error:
                print(f"everlong: {error}", file=sys.stderr, flush=True)
            except KeyboardInterrupt:
                self._console.note("\n(cut short)")
        where = f"--server {shlex.quote(self._server)} --session {shlex.quote(self.session)}"
        self._console.note(f"Next: everlong chat {where}")

    def _answer(self, text: str) -> None:
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        body = self._fields | {"messages": [*system, {"role": "user", "content": text}], "session": self.session}
        said = ""
        usage = None
        for event in self._events(body | {"stream": True, "stream_options": {"include_usage": True}}):
            if "error" in event:
                raise InputError(f"{self._server}: {one_line(event['error']['message'], 300)}")
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                said += piece
                if not self._console.json:
                    print(piece, end="", flush=True)
        if self._console.json:
            self._console.result({"text": said, "session": self.session, "usage": usage})
        else:
            print(flush=True)

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self._server}/v1/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request) as response:
                for line in response:
                    if line.startswith(b"data: {"):
                        yield json.loads(line[6:])
        except urllib.error.HTTPError as error:
            raise InputError(f"{self._server}: {_said(error)}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise InputError(f"{self._server}: {one_line(reason)}; start it with `everlong serve`") from None


def _said(error: urllib.error.HTTPError) -> str:
    """What a server says is wrong."""
    with error:
        try:
            message = json.loads(error.read())["error"]["message"]
        except (ValueError, LookupError, TypeError):
            message = str(error)
    hint = f" (set {KEY})" if error.code == 401 else ""
    return one_line(message, 300) + hint
