"""`everlong demo`: CPython's reference prose as one stream, read with dense, window and sinks."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.memory.report import MemoryReport
    from everlong.models.load import Loaded
    from everlong.report.stream import StreamCurve
    from everlong.session.session import Session

SINKS = 4
FIRST_ROW_TOKENS = 1024


def demo(
    ctx: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Read the whole text, 113K tokens.")] = False,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens to read if not --full.")] = 32768,
    cache: Annotated[int, typer.Option(min=SINKS + 1, help="Tokens that window and sinks keep.")] = 1024,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after the stream.")] = 200,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the plot and the figures go.")] = Path(".demo"),
    model: options.Model = "smollm2",
    threads: options.Threads = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read a long text three ways, compare them, and go on writing.

    The text is CPython's own reference documentation, which every Python carries (pydoc_data.topics). Dense reads
    as far as the model was trained; window and sinks read all of it with a bounded cache. Writes the plot, the
    figures as JSON and the settings as YAML.
    """
    from everlong.cli.console import Console
    from everlong.cli.setup import load_model
    from everlong.methods import Dense, Sinks, Window
    from everlong.session.session import Session

    console = Console(quiet, json)
    _check_folder(out)
    loaded = load_model(model, "auto", "auto", threads, console)
    ids, trained = _ids(loaded, None if full else tokens), _trained_tokens(loaded)
    console.note(f"The text: Python's own reference documentation, {len(ids):,} tokens.")
    console.note(f"The model: {loaded.name}, trained on {trained:,} tokens; dense stops there.")
    with Session(loaded, Window(window=cache)) as session:
        window = _read(session, ids, console)
    with Session(loaded, Sinks(sinks=SINKS, window=cache - SINKS)) as session:
        sinks = _read(session, ids, console)
        with Session(loaded, Dense()) as reference:
            dense = _read(reference, ids[:trained], console)
        curves = [dense, window, sinks]
        _show_table(curves, console)
        text, report = _write_on(session, new_tokens, console)
    result = {"streams": [curve.as_dict() for curve in curves], "text": text, "report": report.as_dict()}
    written = _save(out, curves, trained, result, ctx)
    if json:
        console.result(result | {"written": [str(path) for path in written]})
    console.note(f"\nWrote {', '.join(str(path) for path in written)}.")
    more = "`everlong score FILE` reads a text of yours" if full else "`make demo ARGS=--full` reads the whole text"
    console.note(f"Next: {more}; `everlong chat` talks without end.")


def _check_folder(out: Path) -> None:
    """Makes the folder; SaveError or CapabilityError if the plot could not be drawn into it, before the work."""
    from everlong.cli.write import check_place
    from everlong.errors import SaveError
    from everlong.report.plot import check_matplotlib

    check_matplotlib()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"{out}: cannot be made ({error.strerror or error}); give another folder with --out") from None
    check_place(out / "demo.png")


def _ids(loaded: Loaded, limit: int | None) -> list[int]:
    """The token ids of the reference topics, by name in order, the first `limit` of them."""
    from pydoc_data.topics import topics

    from everlong.errors import CapabilityError

    if loaded.tokenizer is None:
        raise CapabilityError(
            f"model {loaded.name}: has no tokenizer files, and the demo reads text; give another --model"
        )
    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    return loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:limit]


def _trained_tokens(loaded: Loaded) -> int:
    """The length that the model was trained on; without a limit of its own, what its baseline reads here."""
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 8192


def _read(session: Session, ids: list[int], console: Console) -> StreamCurve:
    """What reading `ids` to the end showed."""
    from everlong.cli.tally import Tally, perplexity
    from everlong.report.stream import resident_bytes

    tally, name = Tally(), session.method.name
    with console.progress(f"{name:<6}", len(ids)) as advance:
        begun = time.perf_counter()
        for logprobs in session.score_stream(ids):
            tally.add(logprobs, time.perf_counter() - begun, resident_bytes())
            advance(tally.tokens, f"perplexity {perplexity(tally.nll_per_token):.2f}")
            begun = time.perf_counter()
    console.note(f"{name:<6} {tally.tokens:,} tokens in {tally.seconds:.0f} s")
    kept = "+".join(str(value) for value in session.method.as_dict().values())
    return tally.curve(f"{name} {kept}".strip())


def _show_table(curves: list[StreamCurve], console: Console) -> None:
    """Perplexity by position, then time and memory, a column for each method."""
    from rich.console import Console as Terminal
    from rich.table import Table

    if console.json:
        return
    table = Table(title="The same text, three ways: perplexity by position")
    table.add_column("tokens")
    for curve in curves:
        table.add_column(curve.label, justify="right")
    for start, end in _rows(max(curve.bins[-1].end for curve in curves)):
        table.add_row(f"{start:,} to {end:,}", *(_cell(c.perplexity(start, end), ",.2f") for c in curves))
    table.add_section()
    table.add_row("ms per token", *(_cell(c.ms_per_token(), ".2f") for c in curves))
    for at in sorted({c.bins[i].end for c in curves for i in (0, -1)}):
        table.add_row(f"resident MB at {at:,}", *(_cell(c.resident_bytes_after(at) / 1e6, ",.0f") for c in curves))
    Terminal(highlight=False).print(table)


def _rows(tokens: int) -> list[tuple[int, int]]:
    """The table's ranges: each twice as long as all before it, the last one as long as the stream."""
    edges = [0, FIRST_ROW_TOKENS]
    while edges[-1] < tokens:
        edges.append(2 * edges[-1])
    return [(start, min(end, tokens)) for start, end in itertools.pairwise(edges)]


def _cell(value: float, form: str) -> str:
    """A figure as the table shows it; a dash where the method did not read."""
    return "-" if math.isnan(value) else format(value, form)


def _write_on(session: Session, new_tokens: int, console: Console) -> tuple[str, MemoryReport]:
    """What the model writes after the whole stream, shown as it comes, and the report after it."""
    console.note(f"\nAfter {session.seen_tokens:,} tokens the model goes on writing, {new_tokens} tokens:\n")
    answer = session.stream(None, max_new_tokens=new_tokens, temperature=0.7, top_p=0.9, seed=0)
    for piece in answer:
        if not console.json:
            print(piece, end="", flush=True)
    report, result = session.report(), answer.result
    if not console.json:
        print(f"\n\n{len(result.token_ids)} tokens, {1000 * result.seconds_per_token:.0f} ms each")
        print(f"Memory report: {report}")
    return result.text, report


def _save(out: Path, curves: list[StreamCurve], trained: int, result: Any, ctx: typer.Context) -> list[Path]:
    """The files written: the plot, the figures as JSON and the settings as YAML."""
    import json

    from everlong.cli.write import run_record, write_whole
    from everlong.report.plot import plot_streams

    title = f"Python's reference documentation as one stream, {curves[-1].bins[-1].end:,} tokens"
    figures = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    left_out = ("config", "quiet", "json", "debug")
    settings = run_record(
        "demo", {k: str(v) if isinstance(v, Path) else v for k, v in ctx.params.items() if k not in left_out}
    )
    return [
        write_whole(out / "demo.png", lambda draft: plot_streams(curves, draft, title, trained)),
        write_whole(out / "demo.json", lambda draft: draft.write_text(figures, encoding="utf-8")),
        write_whole(out / "demo.yaml", lambda draft: draft.write_text(settings, encoding="utf-8")),
    ]
