"""The text of mail: an mbox or one message, each with who wrote it to whom, when, and about what."""

from __future__ import annotations

import email
import mailbox
from collections.abc import Iterable, Iterator
from contextlib import closing
from email.message import EmailMessage
from email.policy import default
from typing import Any, cast

from everlong.cli.opened import Opened, needed

_HEAD = ("From", "To", "Date")


def message_texts(file: Opened) -> Iterator[tuple[str, str]]:
    """Subject and text of each message; attachments are left out, and counted."""
    attached = 0
    count = 0
    for message in _messages(file):
        count += 1
        subject = _line(message.get("Subject", "")) or "(no subject)"
        head = [f"{name}: {_line(message[name])}" for name in _HEAD if message[name]]
        attached += sum(1 for _ in message.iter_attachments())
        yield subject, "\n".join([*head, f"Subject: {subject}", "", _body(message, file), "", ""])
    if not count:
        raise file.refuse("holds no message; give an mbox, or a file of another kind")
    if attached:
        file.say(f"{attached:,} attachments are left out")


def _messages(file: Opened) -> Iterator[EmailMessage]:
    try:
        if file.path.suffix.lower() == ".eml":
            with file.path.open("rb") as opened:
                yield _parsed(opened)
            return
        with closing(mailbox.mbox(file.path, cast("Any", _parsed), create=False)) as box:
            yield from cast("Iterable[EmailMessage]", box)
    except (OSError, mailbox.Error) as error:
        raise file.refuse(f"{getattr(error, 'strerror', None) or error}; give a file that can be read") from None


def _parsed(opened: Any) -> EmailMessage:
    return email.message_from_binary_file(opened, policy=default)


def _body(message: EmailMessage, file: Opened) -> str:
    """The text of a message: as it was written, or that of its HTML."""
    part: Any = message.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        text = str(part.get_content())
    except (LookupError, UnicodeError):
        # An encoding that nobody knows.
        text = (part.get_payload(decode=True) or b"").decode("utf-8", "replace")
    if part.get_content_subtype() == "html":
        text = _html_text(text, file)
    return text.replace("\r\n", "\n").strip()


def _html_text(content: str, file: Opened) -> str:
    parsed, rendered = needed(file, "lxml", "markup", "parsed", "rendered")
    root = parsed(content)
    return "" if root is None else rendered(root, [])


def _line(header: object) -> str:
    return " ".join(str(header).split())
