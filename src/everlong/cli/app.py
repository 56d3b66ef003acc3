"""The commands of `everlong`, in the order in which its help lists them.

`everlong --install-completion` lets the shell complete them, and what options.py and complete.py say of their values.
"""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from everlong.cli.ask import ask
from everlong.cli.bench import bench
from everlong.cli.calibrate import calibrate
from everlong.cli.chat import chat
from everlong.cli.demo import demo
from everlong.cli.doctor import doctor
from everlong.cli.evaluate import evaluate
from everlong.cli.forget import forget
from everlong.cli.generate import generate
from everlong.cli.models import models
from everlong.cli.pin import pin, unpin
from everlong.cli.read import read
from everlong.cli.report import report
from everlong.cli.score import score
from everlong.cli.search import search
from everlong.cli.serve import serve
from everlong.cli.sessions import sessions
from everlong.cli.train import merge, train

app = typer.Typer(
    name="everlong",
    help="Endless context in bounded memory for open language models.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Verbs(TyperGroup):
    """A group whose context is of the type that Typer's documentation names."""

    context_class = typer.Context


class Verb(TyperCommand):
    """A command whose context is of the type that Typer's documentation names."""

    context_class = typer.Context


MEMORY = (read, ask, search, pin, unpin, forget)
WRITING = (generate, chat, serve, score)
MEASURING = (evaluate, report, train, merge, calibrate, bench, models, doctor, demo)
for verb in (*MEMORY, *WRITING, *MEASURING):
    app.command("eval" if verb is evaluate else None, cls=Verb)(verb)
app.add_typer(sessions, cls=Verbs)


def _version(wanted: bool) -> bool:
    if wanted:
        from everlong import __version__

        print(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def everlong(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Endless context in bounded memory for open language models."""
