"""`everlong ask`: a question to a kept session."""

from __future__ import annotations

import shlex
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import next_command, options

if TYPE_CHECKING:
    from everlong.session.reply import Reply
    from everlong.session.session import Session


def ask(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(metavar="TEXT", help="What to ask.")],
    session: options.SessionName = "default",
    store: options.Store = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take the text as it is, without the chat template.")] = False,
    again: options.Again = None,
    cite: Annotated[bool, typer.Option("--cite", help="Show the passages that came back for it.")] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="How many passages.")] = 3,
    encoder: options.Encoder = None,
    host_budget: options.HostBudget = None,
    when_full: options.WhenFull = "refuse",
    allow_special: options.AllowSpecial = False,
    keep: Annotated[bool, typer.Option("--keep", help="Let the session remember question and answer.")] = False,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    report: options.Report = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Ask a kept session; it stays as it is unless --keep is given.

    --json prints one object: text, seconds_to_open (the model being loaded and attached), seconds_to_first_token,
    citations (source, start, end, text, mass, sentence, name, page, chapter, heading, line), quotations (text, found,
    and where), recall (what came back and by which voter) and the memory report. A line is that of the file as it was
    read; PDF files have pages instead. What the answer quotes is looked up in what was read, and it is said where it
    stands, or that it does not.
    """
    from everlong.cli.cite import citation_lines, quotation_lines
    from everlong.cli.console import Console
    from everlong.cli.encoding import load_encoder, use_encoder
    from everlong.cli.model_setup import load_model
    from everlong.errors import InputError
    from everlong.hooks.attach import attach
    from everlong.library.library import Library
    from everlong.methods import make_method
    from everlong.session.session import Session

    console = Console(quiet, json)
    if not question.strip():
        raise InputError("question: empty; give at least one word")
    passages = options.passages(again)
    sampling = options.sampling(ctx)
    budgets = options.budgets(ctx)
    library = Library(store, create=False)
    entry = library.entry(session)
    if not entry.tokens:
        raise InputError(
            f"session {session!r}: holds nothing to ask about; read into it first: everlong read FILE "
            f"{next_command.same_session(ctx, session, store)}"
        )
    kept = entry.method
    own = options.own_model(ctx, library, session)
    loaded = load_model(device=device, threads=threads, console=console, **own)
    with ExitStack() as stack:
        stack.enter_context(attach(loaded.model, make_method(kept["name"], kept["fields"])))
        start = time.perf_counter()
        opened = Session.open(store, session, loaded, read_only=not keep, allow_special=allow_special, **budgets)
        stack.enter_context(opened)
        opening = time.perf_counter() - start
        voter = load_encoder(encoder or library.noted_encoder(session), encoder is not None, console)
        use_encoder(opened, voter, console)
        start = time.perf_counter()
        first = None
        with closing(opened.ask(question, again=passages, raw=raw, keep=keep, **sampling)) as reply:
            for piece in reply:
                first = first or time.perf_counter() - start
                if not json:
                    print(piece, end="", flush=True)
        result: dict[str, Any] = {
            "text": reply.result.text,
            "seconds_to_open": opening,
            "seconds_to_first_token": first,
            "citations": [asdict(c) for c in reply.citations(top)],
            "quotations": [asdict(q) for q in reply.quotations],
            "recall": _recall(reply),
            "report": reply.report.as_dict(),
            "memory": str(reply.report),
        }
        if json:
            console.result(result)
            return
        print()
        if cite:
            print(citation_lines(reply.citations(top)))
        for line in quotation_lines(reply.quotations):
            console.note(line)
        console.note(_account(opened, reply, max_new_tokens))
        if report:
            console.note(f"{result['memory']}; opened in {opening:.2f} s")
        if left := [option for option, given in {"--cite": cite, "--keep": keep}.items() if not given]:
            again = f"{next_command.same_session(ctx, session, store)} {'--raw ' if raw else ''}{left[0]}"
            console.note(f"Next: everlong ask {again} -- {shlex.quote(question)}")


def _account(session: Session, reply: Reply, most: int) -> str:
    """What was looked at and what is lost, of the session and of the answer."""
    from everlong.cli.account import account
    from everlong.cli.amounts import several

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
