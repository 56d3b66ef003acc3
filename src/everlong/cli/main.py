"""`everlong`: runs the command line and turns whatever ends it into a line and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

from everlong.errors import EverlongError, one_line

INTERRUPTED = 130
MISTAKE = 2
DEFECT = 1
CUT_OFF = {INTERRUPTED: "interrupted"} | {128 + n: "terminated" for n in (signal.SIGTERM, signal.SIGHUP)}
"""What the last line says, by exit code."""


def main() -> None:
    """The entry point of the `everlong` command."""
    _end_orderly()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code in CUT_OFF:
        print(f"everlong: {CUT_OFF[code]}", file=sys.stderr)
        _leave(code)
    sys.exit(code)


def _end_orderly() -> None:
    """Let a request to end unwind the command, which keeps what it has read; one that is ignored stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, _: Any) -> NoReturn:
    raise SystemExit(128 + number)


def run(arguments: list[str]) -> int:
    """The exit code of the command line `arguments`: 0, 2 after a user's mistake, 130 and 143 where it was cut off."""
    # Imported after `main` has said what becomes of signals, so that an interrupt of the import is one line, too.
    import typer

    from everlong.cli.app import app

    command: Any = typer.main.get_command(app)
    try:
        return int(command.main(arguments or ["--help"], prog_name="everlong", standalone_mode=False) or 0)
    except typer.Abort:
        return INTERRUPTED
    except SystemExit as stop:
        return int(stop.code or 0)
    except (typer.TyperException, EverlongError) as error:
        if "--debug" in arguments:
            raise
        print(f"everlong: {_message(error)}", file=sys.stderr)
        return MISTAKE
    except Exception as error:
        if "--debug" in arguments:
            raise
        what = f"{type(error).__name__}: {one_line(error)}"
        print(f"everlong: unexpected {what}; run it again with --debug for the traceback", file=sys.stderr)
        return DEFECT


def _leave(code: int) -> None:
    """End the process with `code`.

    Python itself would end by the signal instead if the interrupt came while text was executed as code, as
    imports of dataclasses do (CPython keeps a note of it even when the interrupt is handled).
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _message(error: Exception) -> str:
    """One line: what everlong says itself, or what Typer says with where to find help."""
    import typer

    if not isinstance(error, typer.TyperException):
        return one_line(error, limit=2000)
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else "everlong"
    return f"{one_line(error.format_message())} (see `{command} --help`)"
