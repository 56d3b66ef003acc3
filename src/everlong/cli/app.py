"""The commands of `everlong`, in the order in which its help lists them.

`everlong --install-completion` lets the shell complete them, and what groups.py and complete.py say of their values.
"""

from __future__ import annotations

from typing import Annotated

import typer

from everlong.cli.loader import LazyGroup, Verb, VerbGroup
from everlong.version import __version__


class EverlongGroup(LazyGroup):
    """All commands; a test holds their lines to the first sentence of their help."""

    verbs = (
        Verb("read", "Read files into a session that is kept on the disk."),
        Verb("ask", "Ask a kept session; it stays as it is unless --keep is given."),
        Verb("search", "Show the passages of a session that hold some words."),
        Verb("pin", "Pin a source or a span of a kept session."),
        Verb("unpin", "Take away the pins of a source or a span.", module="pin"),
        Verb("forget", "Forget a source or a span of a kept session."),
        Verb("generate", "Write what comes after a text, token by token."),
        Verb("chat", "Talk to the model without end."),
        Verb("serve", "Serve a model over HTTP, as an OpenAI API."),
        Verb("mcp", "Give an agent the memory: an MCP server on stdin and stdout."),
        Verb("score", "Read a text as a stream and print its perplexity."),
        Verb("eval", "Run benchmarks, each sample on each method.", module="evaluate", work="evaluate"),
        Verb("report", "Make one page of all runs: tables, curves, heat maps, cost."),
        Verb("train", "Train a memory by a recipe."),
        Verb("merge", "Write a model and its trained memory into one folder.", module="train"),
        Verb("calibrate", "Find the model's retrieval heads, once."),
        Verb("bench", "Measure the speed of the methods beside other programs."),
        Verb("models", "List the models that are here, and what they are good for."),
        Verb("doctor", "Show what there is, what works and what it costs."),
        Verb("demo", "Find a hidden key again; read a long text three ways."),
        VerbGroup("sessions", "List, show, fork, delete, verify, compact or move sessions."),
    )


app = typer.Typer(
    name="everlong",
    help="Endless context in bounded memory for open language models.",
    cls=EverlongGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> bool:
    if wanted:
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
