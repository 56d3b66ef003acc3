"""`everlong bench`: speed of the methods against plain transformers with as many cached tokens."""

from __future__ import annotations

import shlex
import sys

import typer

from everlong.cli import options
from everlong.cli.console import Console
from everlong.cli.model_setup import load_model
from everlong.cli.timing import WHATS, TimingRow, measure, sized
from everlong.cli.verbs.bench import BenchOptions
from everlong.errors import ConfigError, nearest
from everlong.evaluate.baseline import stock_copy
from everlong.machine import circumstances


def bench(ctx: typer.Context, given: BenchOptions) -> None:
    """Measure each method, and show the rows."""
    console = Console.of(given.output)
    whats = _known(_words(given.what), WHATS, "what")
    sizes = _sizes(given.cache)
    names = _words(given.method)
    runs = [
        (w, size, sized(name, size, options.chosen_fields(ctx, name, given.option)))
        for name in names
        for size in sizes
        for w in whats
    ]
    loaded = load_model(given.model, given.hardware, console)
    stock = stock_copy(loaded.model)
    rows = []
    with console.progress("measuring", len(runs), "rows") as advance:
        for at, (w, size, sized_method) in enumerate(runs):
            advance(at, f"{w} {sized_method}")
            rows.append(measure(w, loaded, stock, sized_method, size, given.chunk, given.repeats))
    if given.output.json:
        console.result([row.as_dict() for row in rows])
    else:
        _tell(rows, loaded.name, console)
        if options.is_default(ctx, "method"):
            console.note(f"Next: {_again()} --method dense,window,sinks")


def _words(text: str) -> list[str]:
    """The names in a list with commas; ConfigError for an empty one."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ConfigError(f"{text!r}: expected names or numbers with commas between, for example 256,4096")
    return words


def _known(words: list[str], known: tuple[str, ...], option: str) -> list[str]:
    """The words, if all are known."""
    for word in words:
        if word not in known:
            raise ConfigError(f"{option}={word}: does not exist; {nearest(word, known)}")
    return words


def _sizes(text: str) -> list[int]:
    """The numbers in a list with commas."""
    words = _words(text)
    for word in words:
        if not word.isdecimal() or int(word) < 1:
            raise ConfigError(f"cache={word}: expected a whole number of at least 1 (tokens kept, sinks + window)")
    return [int(word) for word in words]


def _again() -> str:
    """This command as it is typed in a shell."""
    return shlex.join(["everlong", *sys.argv[1:]])


def _tell(rows: list[TimingRow], model: str, console: Console) -> None:
    """The rows as a table, under the command and what it ran on."""
    print(f"{_again()}\n{model}; {circumstances()}\n")
    print(f"{'what':<8}{'method':<10}{'cache':>7}{'everlong':>16}{'transformers':>16}{'ratio':>8}{'spread':>15}")
    for row in rows:
        ours, unit = (row.ms_per_token, "ms") if row.what == "decode" else (row.tokens_per_s, "tok/s")
        spreads = f"{100 * row.spread:.0f} %, {100 * row.baseline_spread:.0f} %"
        figures = f"{ours:>10.2f} {unit:<5}{row.baseline:>10.2f} {unit:<5}{row.ratio:>8.2f}{spreads:>15}"
        print(f"{row.what:<8}{row.method:<10}{row.cache:>7}{figures}")
    console.note("\nRatio above 1: better than transformers with as many cached tokens. Medians; spread: quartiles.")
