"""`everlong score`: perplexity of a text of any length, read as a stream."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from everlong.cli import next_command, options
from everlong.cli.atomic_write import check_place, run_record, write_whole
from everlong.cli.console import Console
from everlong.cli.model_setup import load_model
from everlong.cli.source import TextSource
from everlong.cli.stream_stats import StreamStats, peak_resident_bytes, perplexity, reset_peak
from everlong.cli.verbs.score import ScoreOptions
from everlong.errors import CapabilityError, ConfigError, InputError, ModelError
from everlong.models.load import Loaded
from everlong.report.plot import check_picture, plot_streams
from everlong.report.stream import resident_bytes
from everlong.session.session import Session


def score(ctx: typer.Context, given: ScoreOptions) -> None:
    """Read the text, and show its perplexity."""
    console = Console.of(given.output)
    chosen = options.chosen_method(ctx, given.method, given.model)
    _check_places(given.csv, given.plot, given.force)
    check_picture(given.plot)
    with TextSource(given.file, given.encoding) as source:
        loaded = load_model(given.model, given.hardware, console)
        _need_tokenizer(loaded)
        with Session(loaded, chosen, given.chunk, allow_special=given.allow_special) as session:
            tally, peak_bytes = _read(session, source, given.max_tokens, console)
            for warning in source.warnings():
                console.warn(f"{source.name}: {warning}")
            result = _result(tally, peak_bytes, session)
            written = _write(tally, session, given.csv, given.plot, ctx)
            if given.output.json:
                console.result(result)
            else:
                _tell(result, written, session, ctx, console)


def _need_tokenizer(loaded: Loaded) -> None:
    if loaded.tokenizer is None:
        raise CapabilityError(
            f"model {loaded.name}: has no tokenizer files, and text must be cut into tokens; "
            "add tokenizer.json to its folder, or score ids with everlong.Session"
        )


def _check_places(csv: Path | None, plot: Path | None, force: bool) -> None:
    """SaveError where the table, the picture or the record beside each cannot be written; ConfigError for one place."""
    wanted = [path for path in (csv, plot) if path is not None]
    for path in wanted:
        check_place(path, force)
    beside = dict.fromkeys(map(_beside, wanted))
    if len({path.resolve() for path in wanted}) < len(wanted) or not beside.keys().isdisjoint(wanted):
        raise ConfigError(f"score: {', '.join(map(str, wanted))} and the .yaml beside it need names of their own")
    for path in beside:
        check_place(path, force)


def _beside(path: Path) -> Path:
    """Where the record of a run goes that wrote the file at `path`."""
    return path.with_suffix(".yaml")


def _read(session: Session, source: TextSource, limit: int | None, console: Console) -> tuple[StreamStats, int]:
    """The tally of the whole stream, and the highest resident memory while it was read."""
    tally = StreamStats()
    highest = resident_bytes()
    reset_peak()
    known = limit is None and source.total_bytes is not None
    total, unit = (source.total_bytes, "bytes") if known else (limit, "tokens")
    with console.progress("reading", total, unit) as advance:
        for logprobs, seconds in _timed(session.score_stream(iter(source), limit)):
            resident = resident_bytes()
            highest = max(highest, resident)
            tally.add(logprobs, seconds, resident)
            _check_finite(tally)
            words = f"perplexity {perplexity(tally.nll_per_token):.2f}"
            advance(source.read_bytes if known else tally.tokens, words)
    if not tally.scored:
        raise InputError(f"{source.name}: {tally.tokens} token; perplexity needs at least 2, give more text")
    tally.finish(resident_bytes())
    return tally, peak_resident_bytes(highest)


def _check_finite(tally: StreamStats) -> None:
    """ModelError where a token has no score but the first of all: the model gave no numbers for it."""
    if tally.scored < tally.tokens - 1 or not math.isfinite(tally.nll):
        raise ModelError(
            f"score: the model's predictions are not finite near token {tally.tokens:,}; load it with --dtype float32"
        )


def _timed(stream: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """The items of a stream, each with the seconds that it took."""
    while True:
        begun = time.perf_counter()
        item = next(stream, None)
        if item is None:
            return
        yield item, time.perf_counter() - begun


def _result(tally: StreamStats, peak_bytes: int, session: Session) -> dict[str, Any]:
    """What --json prints."""
    return {
        "tokens": tally.tokens,
        "perplexity": perplexity(tally.nll_per_token),
        "nll_per_token": tally.nll_per_token,
        "seconds": tally.seconds,
        "tokens_per_s": tally.tokens / tally.seconds,
        "peak_rss_bytes": peak_bytes,
        "rss_by_tokens": tally.rss_by_tokens,
        "perplexity_by_position": tally.perplexity_by_position(),
        "report": session.report().as_dict(),
    }


def _write(tally: StreamStats, session: Session, csv: Path | None, plot: Path | None, ctx: typer.Context) -> list[Path]:
    """The files written: the table and the plot, and beside each how it was made."""
    written = []
    if csv is not None:
        written.append(write_whole(csv, lambda draft: draft.write_text(tally.csv(), encoding="utf-8")))
    if plot is not None:
        curve = tally.curve(str(session.method))
        title = f"{session.name}, {tally.tokens:,} tokens"
        written.append(write_whole(plot, lambda draft: plot_streams([curve], draft, title)))
    record = _record(ctx, session)
    beside = dict.fromkeys(map(_beside, written))
    return written + [write_whole(path, lambda draft: draft.write_text(record, encoding="utf-8")) for path in beside]


def _record(ctx: typer.Context, session: Session) -> str:
    """The options of this run as YAML, without the places that it wrote to."""
    left_out = ("file", "option", "config", "csv", "plot", "force", "quiet", "json", "debug")
    shown = {name: value for name, value in ctx.params.items() if name not in left_out}
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in shown.items()}
    return run_record(
        f"score {ctx.params['file']}", shown | {"method": {"name": session.method.name, **session.method.as_dict()}}
    )


def _tell(result: dict[str, Any], written: list[Path], session: Session, ctx: typer.Context, console: Console) -> None:
    """The result in words; what was written and what to try next."""
    print(f"perplexity    {result['perplexity']:.4f}  ({result['nll_per_token']:.4f} nats per token)")
    print(f"tokens        {result['tokens']:,} in {result['seconds']:.1f} s  ({result['tokens_per_s']:.0f} per s)")
    print(f"memory        {result['peak_rss_bytes'] / 1e6:,.0f} MB at most")
    print(f"report        {session.report()}")
    if written:
        console.note(f"Wrote {', '.join(str(path) for path in written)}.")
    file = str(ctx.params["file"])
    by_position = shlex.join(["everlong", *sys.argv[1:], "--csv", f"{Path(file).stem}-scores.csv"])
    if command := next_command.talk(ctx, session) if written or file == "-" else by_position:
        console.note(f"Next: {command}")
