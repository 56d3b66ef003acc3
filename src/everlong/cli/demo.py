"""`everlong demo`: CPython's reference prose as one stream, read with dense, window and sinks."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from everlong.methods.base import Method
    from everlong.models.load import Loaded
    from everlong.report.stream import StreamCurve
    from everlong.session.session import Session

SINKS = 4
BIN_TOKENS = 1024


def demo(
    full: Annotated[bool, typer.Option("--full", help="Read the whole text (113K tokens), not its beginning.")] = False,
    tokens: Annotated[int, typer.Option(help="How many tokens to read.", min=16)] = 32768,
    cache: Annotated[int, typer.Option(help="Tokens that window and sinks keep.", min=SINKS + 1)] = 1024,
    new_tokens: Annotated[int, typer.Option(help="Tokens to write after the stream.", min=1)] = 200,
    model: Annotated[str, typer.Option("--model", "-m", help="Model to load.")] = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder for the plot and the figures.")] = Path(".demo"),
    threads: Annotated[int | None, typer.Option(help="Threads for torch; all cores if not given.", min=1)] = None,
) -> None:
    """Read a long text with dense, window and sinks; compare them; let the model go on writing.

    The text is CPython's own reference documentation, which every Python carries (pydoc_data.topics). Dense reads as
    far as the model was trained; window and sinks read all of it with a bounded cache.
    """
    from rich.console import Console

    console = Console(highlight=False)
    _set_threads(threads)
    loaded = _load(model, console)
    ids = _stream_ids(loaded, None if full else tokens)
    trained = int(loaded.model.config.max_position_embeddings)
    console.print(f"The text: Python's own reference documentation, {len(ids):,} tokens.")
    console.print(f"The model: {loaded.name}, trained on {trained:,} tokens; dense stops there.")
    curves, last = _read_all(loaded, ids, trained, cache, console)
    console.print(_table(curves))
    _write_on(last, new_tokens, console)
    written = _save(curves, last, trained, out)
    console.print(f"\nWrote {' and '.join(str(path) for path in written)}.")
    more = "`everlong score FILE` reads a text of yours" if full else "`make demo ARGS=--full` reads the whole text"
    console.print(f"Next: {more}; `everlong chat --method sinks` talks without end.")


def _set_threads(threads: int | None) -> None:
    """Gives torch its threads."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _load(model: str, console: Console) -> Loaded:
    """The model, which must have a tokenizer."""
    from everlong.errors import InputError
    from everlong.models.load import load

    console.print(f"Loading {model} ...")
    loaded = load(model)
    if loaded.tokenizer is None:
        raise InputError(f"model {model}: has no tokenizer, and the demo reads text; use --model with one that has")
    return loaded


def _stream_ids(loaded: Loaded, limit: int | None) -> list[int]:
    """The token ids of the reference topics, by name in order, the first `limit` of them."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    ids = loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids[:limit]


def _read_all(
    loaded: Loaded, ids: list[int], trained: int, cache: int, console: Console
) -> tuple[list[StreamCurve], Session]:
    """The curves of dense, window and sinks, and the session of sinks at the stream's end.

    Dense reads last, so that the memory it takes and gives back does not stand in the figures of the others.
    """
    from everlong.methods.dense import Dense
    from everlong.methods.sinks import Sinks
    from everlong.methods.window import Window

    with _progress(console) as report:
        window, _ = _read(loaded, Window(window=cache), ids, report)
        sinks, session = _read(loaded, Sinks(sinks=SINKS, window=cache - SINKS), ids, report)
        dense, _ = _read(loaded, Dense(), ids[:trained], report)
    return [dense, window, sinks], session


def _read(
    loaded: Loaded, method: Method, ids: list[int], report: Callable[[str, int, int, float], None]
) -> tuple[StreamCurve, Session]:
    """The curve of one method, and the session that read it."""
    from everlong.report.stream import read_stream
    from everlong.session.session import Session

    session = Session(loaded, method)
    curve = read_stream(
        session,
        ids,
        label=" ".join([method.name, "+".join(str(value) for value in method.as_dict().values())]).strip(),
        bin_tokens=BIN_TOKENS,
        on_chunk=lambda done, perplexity: report(method.name, done, len(ids), perplexity),
    )
    return curve, session


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int, float], None]]:
    """A function (name, done, total, perplexity) that shows progress: bars on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield lambda *row: _progress_line(console, *row)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    count, latest = "{task.completed:>7,} / {task.total:,} tokens", "perplexity {task.fields[perplexity]:.2f}"
    columns = (
        TextColumn("{task.description:<8}"),
        TextColumn(count),
        BarColumn(),
        TextColumn(latest),
        TimeRemainingColumn(),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console) as bars:

        def show(name: str, done: int, total: int, perplexity: float) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, perplexity=math.nan)
            bars.update(tasks[name], completed=done, perplexity=perplexity)

        yield show


def _progress_line(console: Console, name: str, done: int, total: int, perplexity: float) -> None:
    """One line at every 4,096 tokens and at the end."""
    if done % 4096 == 0 or done == total:
        console.print(f"{name:<8} {done:>7,} / {total:,} tokens   perplexity {perplexity:.2f}")


def _table(curves: list[StreamCurve]) -> Any:
    """Perplexity by position, then time and memory, a column for each method."""
    from rich.table import Table

    table = Table(title="The same text, three ways")
    table.add_column("tokens")
    for curve in curves:
        table.add_column(curve.label, justify="right")
    for start, end in _ranges(max(curve.bins[-1].end for curve in curves)):
        table.add_row(f"{start:,} to {end:,}", *(_cell(curve.perplexity(start, end)) for curve in curves))
    table.add_section()
    table.add_row("ms per token", *(f"{curve.ms_per_token():.2f}" for curve in curves))
    for tokens in sorted({curve.bins[at].end for curve in curves for at in (0, -1)}):
        cells = (curve.resident_bytes_after(tokens) for curve in curves)
        table.add_row(f"resident MB at {tokens:,}", *("-" if c is None else f"{c / 1e6:,.0f}" for c in cells))
    return table


def _ranges(tokens: int) -> list[tuple[int, int]]:
    """The table's rows: each twice as long as all before it, the last one as long as the stream."""
    edges = [0, BIN_TOKENS]
    while edges[-1] < tokens:
        edges.append(2 * edges[-1])
    return [(a, min(b, tokens)) for a, b in itertools.pairwise(edges)]


def _cell(perplexity: float) -> str:
    """A perplexity as the table shows it; a dash where the method did not read."""
    return "-" if math.isnan(perplexity) else f"{perplexity:,.2f}"


def _write_on(session: Session, new_tokens: int, console: Console) -> None:
    """Prints what the model writes after the whole stream, and what it remembers of it."""
    seen = session.report().seen_tokens
    console.print(f"\nAfter {seen:,} tokens the model goes on writing, {new_tokens} tokens:\n")
    answer = session.generate(None, max_new_tokens=new_tokens, temperature=0.7, seed=0)
    console.print(answer.text.strip(), markup=False, style="italic")
    console.print(f"\nMemory report: {session.report()}", markup=False)


def _save(curves: list[StreamCurve], session: Session, trained: int, out: Path) -> list[Path]:
    """The files written: the plot, and the figures as JSON."""
    from everlong.report.plot import plot_streams

    tokens = curves[-1].bins[-1].end
    out.mkdir(parents=True, exist_ok=True)
    title = f"Python's reference documentation as one stream, {tokens:,} tokens"
    plot = plot_streams(curves, out / "demo.png", title, trained)
    figures = out / "demo.json"
    result = {"streams": [curve.as_dict() for curve in curves], "report": session.report().as_dict()}
    figures.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return [plot, figures]
