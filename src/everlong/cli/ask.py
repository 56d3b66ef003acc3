"""`everlong ask`: a question to a kept session."""

from __future__ import annotations

import shlex
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import typer

from everlong.cli import next_command, options
from everlong.cli.account import account
from everlong.cli.amounts import several
from everlong.cli.cite import citation_lines, quotation_lines
from everlong.cli.console import Console
from everlong.cli.encoding import load_encoder, use_encoder
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.ask import AskOptions
from everlong.errors import ConfigError, InputError
from everlong.hooks.attach import attach
from everlong.library.library import Library
from everlong.session.reply import Reply
from everlong.session.session import Session


def ask(ctx: typer.Context, given: AskOptions) -> None:
    """The answer as it is written, then what it rests on."""
    console = Console.of(given.output)
    if not given.question.strip():
        raise InputError("question: empty; give at least one word")
    passages = options.passages(given.again)
    sampling = options.sampling(given.sampling)
    if given.image is not None and passages:
        raise ConfigError(f"again={given.again}: passages are read again without the image; leave --again out")
    budgets = options.budgets(given.host_budget, None, given.when_full)
    library = Library(given.kept.store, create=False)
    entry = library.entry(given.kept.session)
    if not library.tokens(entry):
        raise InputError(
            f"session {given.kept.session!r}: holds nothing to ask about; read into it first: everlong read FILE "
            f"{next_command.same_session(ctx, given.kept.session, given.kept.store)}"
        )
    own = options.own_model(ctx, given.model, given.hardware, library, given.kept.session)
    loaded = load_model(*own, console)
    with ExitStack() as stack:
        stack.enter_context(attach(loaded.model, entry.made_method()))
        start = time.perf_counter()
        opened = Session.open(
            given.kept.store,
            given.kept.session,
            loaded,
            read_only=not given.keep,
            allow_special=given.allow_special,
            **budgets,
        )
        stack.enter_context(opened)
        opening = time.perf_counter() - start
        voter = load_encoder(
            given.encoder or library.noted_encoder(given.kept.session), given.encoder is not None, console
        )
        use_encoder(opened, voter, console)
        if given.image is not None:
            opened.feed(given.image)
        start = time.perf_counter()
        first = None
        with closing(opened.ask(given.question, again=passages, raw=given.raw, keep=given.keep, **sampling)) as reply:
            for piece in reply:
                first = first or time.perf_counter() - start
                if not given.output.json:
                    print(piece, end="", flush=True)
        result: dict[str, Any] = {
            "text": reply.result.text,
            "seconds_to_open": opening,
            "seconds_to_first_token": first,
            "citations": [asdict(c) for c in reply.citations(given.top)],
            "quotations": [asdict(q) for q in reply.quotations],
            "recall": _recall(reply),
            "report": reply.report.as_dict(),
            "memory": str(reply.report),
        }
        if given.output.json:
            console.result(result)
            return
        print()
        if given.cite:
            print(citation_lines(reply.citations(given.top)))
        for line in quotation_lines(reply.quotations):
            console.note(line)
        console.note(_account(opened, reply, given.sampling.max_new_tokens))
        if given.report:
            console.note(f"{result['memory']}; opened in {opening:.2f} s")
        if left := [option for option, on in {"--cite": given.cite, "--keep": given.keep}.items() if not on]:
            where = next_command.same_session(ctx, given.kept.session, given.kept.store)
            raw = "--raw " if given.raw else ""
            console.note(f"Next: everlong ask {where} {raw}{left[0]} -- {shlex.quote(given.question)}")


def _account(session: Session, reply: Reply, most: int) -> str:
    """What was looked at and what is lost, of the session and of the answer."""
    words = account(session, reply.recall, reply.report)
    if reply.outgrown_tokens:
        gone = several(reply.outgrown_tokens, "token")
        words += f"; {gone} of what was read again left the window before the answer ended"
    if reply.result.finish == "length":
        words += f"; the answer is cut off after {several(most, 'token')} (--max-new-tokens)"
    return words


def _recall(reply: Reply) -> dict[str, Any] | None:
    """What came back for the question, for machines."""
    found = reply.recall
    if found is None:
        return None
    return {
        "way": found.way,
        "stands_out": found.stands_out,
        "seconds": found.seconds,
        "shown": [asdict(p) for p in found.shown],
        "blocks": list(found.blocks),
    }
