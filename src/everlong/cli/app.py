"""The commands of `everlong`, in the order in which its help lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from everlong.cli.bench import bench
from everlong.cli.chat import chat
from everlong.cli.demo import demo
from everlong.cli.doctor import doctor
from everlong.cli.generate import generate
from everlong.cli.score import score

app = typer.Typer(
    name="everlong",
    help="Endless context in bounded memory for open language models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (generate, chat, score, bench, doctor, demo):
    app.command()(verb)


def _version(wanted: bool) -> None:
    if wanted:
        from everlong import __version__

        print(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def everlong(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Endless context in bounded memory for open language models."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
