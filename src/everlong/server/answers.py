"""Answers where they belong: in a conversation found by its messages, or in a session kept under a name."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from typing import Any

from everlong.server import tools
from everlong.server.asked import Answered, Asked
from everlong.server.continuing import Continued
from everlong.server.conversations import Conversations
from everlong.server.errors import refused
from everlong.server.joining import digest, other_request
from everlong.server.kept import KeptSessions
from everlong.server.messages import chain
from everlong.server.notes import KnownTurn
from everlong.server.open_sessions import OpenSession
from everlong.server.parking import Parking
from everlong.server.pieces import Piece, Tell
from everlong.server.session_jobs import SessionJobs
from everlong.server.worker import Job, Ready
from everlong.server.writer import Answering, Writer
from everlong.session.session import Session
from everlong.text.chat_template import Message, message


class ConversationAnswers:
    """Answers in conversations whose clients send all messages each time; `opened` gives a new session for one."""

    def __init__(
        self, writer: Writer, conversations: Conversations, parking: Parking, opened: Callable[[], Session]
    ) -> None:
        self._writer = writer
        self._conversations = conversations
        self._parking = parking
        self._opened = opened

    def answer(self, asked: Asked, tell: Tell, owner: str) -> Answering:
        """The answers to the messages that were not read before; their turn is held to be gone on from."""
        hashes = chain(asked.messages, beginning(owner, asked))
        known, held = self._conversations.find(hashes)
        session = self._opened() if held is None else held.session.fork()
        try:
            answered = yield from self._writer.turn(session, replace(asked, messages=asked.messages[known:]), tell)
        except BaseException:
            session.close()
            raise
        after = chain([_said(asked, answered)], hashes[-1])[0]
        self._conversations.keep(session, after, held)
        self._parking.trim()
        return answered


class KeptAnswers:
    """Answers in kept sessions, each on the disk before it is told to be whole."""

    def __init__(self, writer: Writer, kept: KeptSessions, jobs: SessionJobs) -> None:
        self._writer = writer
        self._kept = kept
        self._jobs = jobs

    def answer(self, name: str, asked: Asked, tell: Tell, again: tuple[str, str] | None) -> Answering:
        """The answers to the messages that are new to the session; that of before to a request that came again.

        `again`: the key by which such a request is known, and the digest of its content.
        """

        def work(opened: OpenSession) -> Answering:
            if again is not None and again[0] in opened.replies:
                return _told_again(opened.replies[again[0]], again[1], tell)
            answered, note = yield from self._turn(opened, asked, tell)
            if again is not None:
                note["replies"] = {again[0]: {"content": again[1], "answered": answered.as_dict()}}
            yield from self._kept.acknowledge(name, answered.runs, note)
            return answered

        return (yield from self._alone_with(name, work))

    def go_on(self, name: str, write: Callable[[Session], Generator[Ready | None, None, list[Continued]]]) -> Job:
        """What was written behind a prompt in the session, on the disk before it is told to be whole."""

        def work(opened: OpenSession) -> Job:
            begin = opened.session.seen_tokens
            found = yield from write(opened.session)
            runs = [run for continued in found for run in continued.runs]
            # A chat goes on from the messages before it: it is no part of their chain.
            chained = opened.turns[-1].chain if opened.turns else ""
            lengths = [(kind, len(ids)) for kind, ids in runs]
            turn = KnownTurn(opened.session.seen_tokens, chained, begin, lengths)
            yield from self._kept.acknowledge(name, runs, {"turns": [turn]})
            return found

        return (yield from self._alone_with(name, work))

    def _alone_with(self, name: str, work: Callable[[OpenSession], Job]) -> Job:
        """What `work` gives of a session that nobody else has; one in which it fails is opened anew from the disk."""
        yield from self._kept.take(name)
        try:
            opened = yield from self._jobs.opened(name)
            yield from self._kept.settle(name)
            found = yield from work(opened)
        except BaseException:
            self._kept.open.let_go(name)
            raise
        finally:
            self._kept.release(name)
        self._jobs.keep_up(name)
        return found

    def _turn(
        self, opened: OpenSession, asked: Asked, tell: Tell
    ) -> Generator[Ready | None, None, tuple[Answered, dict[str, Any]]]:
        """The answers, and what is to be noted of their turn."""
        with_tools = digest(asked.tools) if asked.tools else ""
        if opened.session.conversing and with_tools not in ("", opened.tools):
            raise refused("tools", "this session was begun with other tools, or none; name a new session for these")
        begun, new = _unread(opened.turns, asked.messages)
        begin = opened.session.seen_tokens
        answered = yield from self._writer.turn(opened.session, replace(asked, messages=new), tell)
        after = chain([*new, _said(asked, answered)], begun)[-1]
        first = [] if any(turn.chain for turn in opened.turns) else [KnownTurn(begin, chain(asked.messages[:1])[0])]
        lengths = [(kind, len(ids)) for kind, ids in answered.runs]
        return answered, {
            "turns": [*first, KnownTurn(opened.session.seen_tokens, after, begin, lengths)],
            "citations": [asdict(cited) for cited in answered.citations],
            "passages": list(answered.passages),
            "tools": opened.tools or with_tools,
        }


def beginning(owner: str, asked: Asked) -> str:
    """What the hashes of a conversation begin with: whose it is, and which tools are offered in it."""
    return digest(owner, asked.tools) if asked.tools else owner


def _said(asked: Asked, answered: Answered) -> Message:
    """The first answer, with the calls in it where tools were offered, as a client sends it back."""
    text = answered.results[0].text
    return tools.said(text) if asked.tools else message("assistant", text)


def _told_again(reply: dict[str, Any], content: str, tell: Tell) -> Answered:
    """An answer that was given before, to a request that came again after the server had been ended."""
    if reply["content"] != content:
        raise other_request()
    answered = Answered.from_dict(reply["answered"])
    for n, result in enumerate(answered.results):
        tell(Piece(n, result.text, result.odds))
    return answered


def _unread(turns: Sequence[KnownTurn], messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The hash of the turns that a session has read, and which of the messages are new to it.

    All are, unless they begin with the whole conversation that the session holds, or with its system prompt. The first
    of the turns is the hash of the session's first message alone.
    """
    turns = [turn for turn in turns if turn.chain]  # the others are completions
    if not turns:
        return "", messages
    last = turns[-1].chain
    hashes = chain(messages)
    for n in range(len(hashes) - 1, 0, -1):
        if hashes[n - 1] == last:
            return last, messages[n:]
    repeated = len(messages) > 1 and messages[0]["role"] == "system" and hashes[0] == turns[0].chain
    return last, messages[1:] if repeated else messages
