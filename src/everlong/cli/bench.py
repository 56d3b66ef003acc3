"""`everlong bench`: speed of the methods beside other programs that run the same model."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import typer

from everlong.cli import options
from everlong.cli.atomic_write import check_place, write_whole
from everlong.cli.console import Console
from everlong.cli.model_setup import load_model
from everlong.cli.table import aligned
from everlong.cli.verbs.bench import BenchOptions
from everlong.errors import CapabilityError, ConfigError, nearest
from everlong.evaluate.baseline import stock_copy
from everlong.evaluate.lengths import tokens_of
from everlong.hooks.attach import attach
from everlong.machine import circumstances, machine, versions
from everlong.methods.base import Method, make_method
from everlong.models.load import Loaded
from everlong.report import figures
from everlong.report.plot import check_picture
from everlong.report.speed.measure import WHATS, Bench, BenchSettings
from everlong.report.speed.peers import PEERS, Make, peer_of, peer_versions
from everlong.report.speed.plot import plot_speed
from everlong.report.speed.rows import SpeedRow
from everlong.report.speed.table import HEADER, RIGHT, lines, profile_line

AUTO = "auto"
NONE = "none"


def bench(ctx: typer.Context, given: BenchOptions) -> None:
    """Measure each method, and show the rows."""
    console = Console.of(given.output)
    whats = _known(_words(given.what), WHATS, "what")
    names = _words(given.method)
    contexts = _contexts(ctx, given)
    methods = {name: _sized(ctx, given, name, contexts) for name in names}
    if "choice" in whats and (blind := [name for name in names if name != "blocks"]):
        raise ConfigError(f"what=choice: {blind[0]} chooses no blocks; give --method blocks, or leave choice out")
    limit = tokens_of(given.peers_to, "peers_to")
    everyone = {AUTO: list(PEERS), NONE: []}
    wanted = everyone[given.peers] if given.peers in everyone else _known(_words(given.peers), PEERS, "peers")
    check_place(given.plot, given.force)
    check_picture(given.plot)
    loaded = load_model(given.model, given.hardware, console)
    attach(loaded.model, methods[names[0]][0][0]).detach()  # a model that is refused is not compared with anything
    peers, left_out = _peers(wanted, given.peers == AUTO, loaded, console)
    rows = []
    with console.progress("measuring", len(contexts), "contexts") as advance:
        for at, context in enumerate(contexts):
            advance(at, figures.tokens(context))
            near = peers if context <= limit else {}
            left_out |= {
                f"{name} at {figures.tokens(context)}": f"--peers-to {given.peers_to}" for name in peers if not near
            }
            bench = Bench(loaded, near, BenchSettings(given.chunk, given.repeats, given.profile))
            rows += bench.rows(context, [methods[name][at] for name in names], whats)
    if given.plot is not None:
        write_whole(given.plot, lambda draft: plot_speed(rows, draft, f"{loaded.name}; {circumstances()}"))
    if given.output.json:
        console.result(_document(rows, left_out, loaded, peers))
    else:
        _tell(rows, left_out, loaded, peers, given.plot, console, options.is_default(ctx, "method"))


def _document(rows: list[SpeedRow], left_out: dict[str, str], loaded: Loaded, peers: dict[str, Make]) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "command": _again(),
        "model": loaded.origin,
        "machine": machine(),
        "versions": versions() | peer_versions(list(peers)),
        "left_out": left_out,
        "rows": [row.as_dict() for row in rows],
    }


def _peers(wanted: list[str], auto: bool, loaded: Loaded, console: Console) -> tuple[dict[str, Make], dict[str, str]]:
    """The peers that can be measured, and why others cannot; an error for one that was asked for by name."""
    stock = stock_copy(loaded.model)
    found: dict[str, Make] = {}
    left_out: dict[str, str] = {}
    for name in wanted:
        try:
            found[name] = peer_of(name, loaded, stock, torch.get_num_threads())
        except CapabilityError as error:
            if not auto:
                raise
            left_out[name] = str(error)
            console.note(str(error))
    return found, left_out


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


def _contexts(ctx: typer.Context, given: BenchOptions) -> list[int]:
    """The contexts, in tokens."""
    if given.cache is None:
        return [tokens_of(word, "context") for word in _words(given.context)]
    if not options.is_default(ctx, "context"):
        raise ConfigError("cache: takes the place of --context; give one of them")
    return [tokens_of(word, "cache") for word in _words(given.cache)]


def _sized(ctx: typer.Context, given: BenchOptions, name: str, contexts: list[int]) -> list[tuple[Method, int]]:
    """For each context the method, and the tokens that it reads before."""
    fields = options.chosen_fields(ctx, name, given.option)
    if given.cache is None:
        found = [(make_method(name, fields), context) for context in contexts]
    else:
        sized_methods = [(sized(name, cache, fields), cache) for cache in contexts]
        found = [(m, cache if m.layout()[1] is None else cache + 2 * given.chunk) for m, cache in sized_methods]
    if not found[0][0].streams:
        raise CapabilityError(f"bench: {found[0][0]} keeps no cache; bench dense, window, sinks or blocks")
    return found


def sized(name: str, cache: int, fields: dict[str, Any]) -> Method:
    """The method that keeps `cache` tokens in all: its window is what the sinks leave."""
    if "window" in fields:
        raise ConfigError(f"window={fields['window']}: --cache sets it (sinks + window); leave it out")
    plain = make_method(name, fields).as_dict()
    if "window" not in plain:
        return make_method(name, fields)
    window = cache - plain.get("sinks", 0)
    if window < 1:
        raise ConfigError(f"cache={cache}: must be more than the {plain['sinks']} sinks (sinks + window)")
    return make_method(name, fields | {"window": window})


def _again() -> str:
    """This command as it is typed in a shell."""
    return shlex.join(["everlong", *sys.argv[1:]])


def _tell(
    rows: list[SpeedRow],
    left_out: dict[str, str],
    loaded: Loaded,
    peers: dict[str, Make],
    plot: Path | None,
    console: Console,
    is_new: bool,
) -> None:
    """The rows as a table, under the command and what it ran on."""
    others = "".join(f", {name} {version}" for name, version in peer_versions(list(peers)).items())
    print(f"{_again()}\n{loaded.name}; {circumstances()}{others}\n")
    print("\n".join(aligned(HEADER, [line for row in rows for line in lines(row)], right=RIGHT)))
    for row in rows:
        if row.profile:
            print(profile_line(row))
    console.note("\nRatio above 1: everlong is faster. Medians; spread and quartiles over the rounds.")
    for name in (name for name in left_out if " at " in name):
        console.note(f"{name}: not measured ({left_out[name]})")
    if plot is not None:
        console.note(f"Wrote {plot}.")
    if is_new:
        console.note(f"Next: {_again()} --method dense,window,sinks")
