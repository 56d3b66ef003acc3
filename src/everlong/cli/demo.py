"""`everlong demo`: one long stream read three ways, and a key that is found again after it left the window."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import typer
from rich.console import Console as Terminal
from rich.table import Table

from everlong.cli import next_command
from everlong.cli.atomic_write import check_place, run_record, write_whole
from everlong.cli.console import Console
from everlong.cli.demo_jobs import KEPT, Written, haystack, read_haystack, read_stream
from everlong.cli.groups import Hardware, ModelChoice
from everlong.cli.jobs import Job, run_jobs
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.demo import SINKS, DemoOptions
from everlong.errors import CapabilityError, SaveError, SessionError
from everlong.evaluate.haystack import KEY_QUESTION as QUESTION
from everlong.methods import Blocks, Dense, Sinks, Window
from everlong.models.load import Loaded
from everlong.report.plot import check_matplotlib, plot_streams
from everlong.report.recall import RecallTable
from everlong.report.stream import StreamCurve

FIRST_ROW_TOKENS = 1024
SHOWN_PASSAGES = 3


def demo(ctx: typer.Context, given: DemoOptions) -> None:
    """Run the whole demonstration."""
    console = Console.of(given.output)
    _check_folder(given.out)
    loaded = load_model(ModelChoice(model=given.model), Hardware(threads=given.threads), console)
    ids = _ids(loaded, None if given.full else given.tokens)
    trained = _trained_tokens(loaded)
    drawn = random.Random(given.seed)
    hay = len(ids) // 2
    key = drawn.randrange(10000, 100000)
    depth = drawn.uniform(0.1, 0.9)
    text, hidden = _hide(given.out, loaded, hay, key, depth)
    console.note(f"The key: {key}, hidden at {depth:.0%} of a text, {hay:,} tokens ({given.out / 'haystack.txt'}).")
    kept = _read_first(given.out, given.model, hay, given.cache, given.threads, console)
    asked = _ask(given.out, given.model, given.threads, key, kept, console)
    console.note(f"\nThe other text: Python's own reference documentation, {len(ids):,} tokens.")
    console.note(f"The model: {loaded.name}, trained on {trained:,} tokens; dense stops there.")
    dense, window, (sinks, written) = _read_streams(
        given.model, ids, trained, given.cache, given.new_tokens, given.threads, console
    )
    curves = [dense[0], window[0], sinks]
    _show_table(curves, console)
    _show_written(written, len(ids), console)
    recall = _recall(asked, hidden, len(text))
    result: dict[str, Any] = {
        "streams": [curve.as_dict() for curve in curves],
        "text": written.text,
        "report": written.report.as_dict(),
        "remembered": kept | asked | {"key": key, "hidden": hidden, "share": recall.share()},
    }
    files = _save(given.out, curves, recall, trained, result, ctx)
    if given.output.json:
        console.result(result | {"written": [str(path) for path in files]})
    console.note(f"\nWrote {', '.join(str(path) for path in files)}.")
    console.note(
        "Next: everlong ask 'What is the pass key? The pass key is' --raw --cite --max-new-tokens 12 "
        + next_command.same_session(ctx, "demo", given.out / "library")
    )
    more = (
        "`everlong score FILE` reads a text of yours" if given.full else "`make demo ARGS=--full` reads the whole text"
    )
    console.note(f"      {more}; `everlong chat` talks without end.")


def _hide(out: Path, loaded: Loaded, tokens: int, key: int, depth: float) -> tuple[str, tuple[int, int]]:
    """Write a text with the key in it; the text, and where the key is, in characters."""
    text, hidden = haystack(loaded.tokenizer, tokens, key, depth)
    write_whole(out / "haystack.txt", lambda draft: draft.write_text(text, encoding="utf-8"))
    return text, hidden


def _read_first(out: Path, model: str, tokens: int, cache: int, threads: int | None, console: Console) -> Any:
    """The session with the key, read by all cores."""
    store = out / "library"
    shutil.rmtree(store, ignore_errors=True)
    job = Job("blocks", tokens, read_haystack, (model, Blocks(window=cache), out / "haystack.txt", store))
    return run_jobs([job], threads, console)[0]


def _read_streams(
    model: str, ids: list[int], trained: int, cache: int, new_tokens: int, threads: int | None, console: Console
) -> list[Any]:
    """The streams of dense, window and sinks, read side by side; the longest is begun first."""
    jobs = [
        Job("sinks", len(ids), read_stream, (model, Sinks(sinks=SINKS, window=cache - SINKS), ids, new_tokens)),
        Job("window", len(ids), read_stream, (model, Window(window=cache), ids, 0)),
        Job("dense", min(trained, len(ids)), read_stream, (model, Dense(), ids[:trained], 0)),
    ]
    return run_jobs(jobs, threads, console)[::-1]


def _ask(
    out: Path, model: str, threads: int | None, key: int, kept: dict[str, Any], console: Console
) -> dict[str, Any]:
    """What `everlong ask` answers in a process that has only the disk to know from; shown."""
    words = ["ask", QUESTION, "--raw", "--cite", "--max-new-tokens", "8", "--session", KEPT]
    words += ["--store", str(out / "library"), "--model", model, "--top", "1000000", "--json"]
    words += [] if threads is None else ["--threads", str(threads)]
    console.note(
        f"\nBlocks read {kept['tokens']:,} tokens in {kept['seconds']:.0f} s. A new process opens the session:"
    )
    console.note(
        f"$ everlong ask {QUESTION!r} --raw --cite --max-new-tokens 8 --session {KEPT} --store {out / 'library'}"
    )
    done = subprocess.run([sys.executable, "-m", "everlong", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SessionError(f"demo: asking the kept session failed: {done.stderr.strip() or done.returncode}")
    answer = json.loads(done.stdout)
    answer["right"] = answer["text"].strip().startswith(str(key))
    if not console.json:
        _show_answer(answer, key)
    return answer


def _show_answer(answer: dict[str, Any], key: int) -> None:
    """The answer, the passages that it can be checked against, what the session holds."""
    verdict = "right" if answer["right"] else f"WRONG, the key is {key}"
    print(f"{answer['text']!r} ({verdict}; opened in {answer['seconds_to_open']:.2f} s,", end=" ")
    print(f"first token after {answer['seconds_to_first_token']:.2f} s)")
    for c in answer["citations"][:SHOWN_PASSAGES]:
        at = c["text"].find(str(key))
        near = " ".join(c["text"][max(0, at - 30) :][:90].split())
        print(f"  [{c['mass']:.0%}] {Path(c['source']).name}:{c['start']}-{c['end']}  ...{near}...")
    if not answer["citations"]:
        print("  No passage stands out.")
    print(f"Memory report: {answer['memory']}")


def _recall(answer: dict[str, Any], hidden: tuple[int, int], length: int) -> RecallTable:
    """Where in the text the passages stand that came back."""
    return RecallTable(tuple((c["start"], c["end"], c["mass"]) for c in answer["citations"]), hidden, length)


def _check_folder(out: Path) -> None:
    """Make the folder; SaveError or CapabilityError if the plot could not be drawn into it, before the work."""
    check_matplotlib()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"{out}: cannot be made ({error.strerror or error}); give another folder with --out") from None
    check_place(out / "demo.png", force=True)


def _ids(loaded: Loaded, limit: int | None) -> list[int]:
    """The token ids of the reference topics, by name in order, the first `limit` of them."""
    if loaded.tokenizer is None:
        raise CapabilityError(
            f"model {loaded.name}: has no tokenizer files, and the demo reads text; give another --model"
        )
    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    return loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:limit]


def _trained_tokens(loaded: Loaded) -> int:
    """The length that the model was trained on; without a limit of its own, what its baseline reads here."""
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 8192


def _show_table(curves: list[StreamCurve], console: Console) -> None:
    """Perplexity by position, then time and memory, a column for each method."""
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


def _show_written(written: Written, tokens: int, console: Console) -> None:
    """What the model wrote after the whole stream, and the report after it."""
    console.note(f"\nAfter {tokens:,} tokens sinks let the model go on writing:\n")
    if not console.json:
        print(f"{written.text}\n\n{written.tokens} tokens, {1000 * written.seconds_per_token:.0f} ms each")
        print(f"Memory report: {written.report}")


def _save(
    out: Path, curves: list[StreamCurve], recall: RecallTable, trained: int, result: Any, ctx: typer.Context
) -> list[Path]:
    """The files written: the plot, the figures as JSON and the settings as YAML."""
    title = f"Python's reference documentation as one stream, {curves[-1].bins[-1].end:,} tokens"
    figures = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    left_out = ("config", "quiet", "json", "debug")
    settings = run_record(
        "demo", {k: str(v) if isinstance(v, Path) else v for k, v in ctx.params.items() if k not in left_out}
    )
    return [
        write_whole(out / "demo.png", lambda draft: plot_streams(curves, draft, title, trained, recall)),
        write_whole(out / "demo.json", lambda draft: draft.write_text(figures, encoding="utf-8")),
        write_whole(out / "demo.yaml", lambda draft: draft.write_text(settings, encoding="utf-8")),
    ]
