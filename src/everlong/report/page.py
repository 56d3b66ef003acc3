"""One self-contained HTML page about runs: no scripts, nothing from elsewhere, light and dark, on a phone too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from importlib.resources import files

from everlong.config import dump_yaml
from everlong.errors import ConfigError
from everlong.evaluate.task import Task, task_class
from everlong.report import figures
from everlong.report.chart import chart, legend
from everlong.report.cost import costs
from everlong.report.curves import curves
from everlong.report.markup import Html, element
from everlong.report.runs import Run
from everlong.report.samples import refusals, worst
from everlong.report.scores import further, heat_maps, overall, scores
from everlong.report.tables import Table, TableRow, grouped, shown, tables

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_READING = (
    "Scores are means in percent; below them stand n and the 95 % interval: Wilson's where every score is 0 or 1,"
    " else by resampling the samples 2,000 times. “too long” are samples that dense attention cannot take, “cannot”"
    " those that a method cannot run; neither counts as wrong. “mean” counts every column once, and is left out where"
    " one is missing. Tokens/s are tokens read over the whole time of a sample, writing the answer included. Peak"
    " memory is the most of the process during a sample, weights included; “held” is the most that the cache held,"
    " by tier."
)


def page(runs: Sequence[Run], title: str = "everlong: evaluation") -> str:
    """The page as text."""
    found = tables(runs)
    names = list(dict.fromkeys(row.label for table in found for row in table.rows))
    numbers = {label: n for n, label in enumerate(names)}
    body = [
        element("header", element("h1", title), element("p", _counts(runs, found), class_="about"), _contents(found)),
        _overview(found) if len(found) > 1 else None,
        *(_task(table, numbers, f"t{n}") for n, table in enumerate(found)),
        element("section", element("h2", "Runs"), *(_run(run, len(runs) == 1) for run in runs), id="runs"),
        element("footer", element("p", _READING)),
    ]
    style = Html(files("everlong.report").joinpath("style.css").read_text(encoding="utf-8"))
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        element("style", style),
    ]
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def settings_of(row: TableRow) -> str:
    """The fields of a method, in short: as its report names it, else all of them."""
    named = next((r["report"]["method"] for r in row.records if r["report"] and "method" in r["report"]), "")
    if "(" in named:
        return named.partition("(")[2].removesuffix(")")
    return figures.settings({name: shown(value) for name, value in row.settings.items()})


def about(table: Table) -> str:
    """What the task measures, from where, and with which options."""
    cls = _class(table.task)
    facts = {} if cls is None else {"Score": cls.metric, "Source": cls.source, "Licence": cls.licence}
    options = figures.settings({name: shown(value) for name, value in table.options.items()})
    facts |= {"Version": str(table.version), "Options": options}
    return " · ".join(f"{name}: {fact}" for name, fact in facts.items() if fact)


def recipe(run: Run) -> str:
    """The run as a recipe of `everlong eval --config`."""
    plan = {name: value for name, value in run.config["plan"].items() if name != "entries" and value is not None}
    tasks = []
    for entry in run.config["plan"]["entries"]:
        fields = {name: value for name, value in entry["task"].items() if name != "version"}
        tasks.append(fields | {"methods": entry["methods"]})
    return dump_yaml(plan | {"tasks": tasks})


def facts_of(run: Run) -> dict[str, str]:
    """When, where and with what the run was made."""
    config = run.config
    plan = run.config["plan"]
    machine = run.config.get("machine", {})
    place = [machine.get("processor") or machine.get("system"), machine.get("cuda")]
    place += [f"{machine[name]} {name}" for name in ("cores", "threads") if name in machine]
    place += [figures.bytes_text(machine["memory_bytes"])] if "memory_bytes" in machine else []
    names = ("model", "dtype", "weights", "device", "chunk", "threads", "seed", "limit")
    settings = {name: plan[name] for name in names if plan.get(name) is not None}
    found = {
        "started": config.get("started", ""),
        "settings": figures.settings(settings),
        "machine": ", ".join(str(part) for part in place if part),
        "system": machine.get("system", ""),
        "versions": ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items()),
        "commit": config.get("commit") or "",
        "data": config.get("data") or "",
        "records": _records(run),
    }
    return {name: text for name, text in found.items() if text}


def _records(run: Run) -> str:
    """How many records, and how many of them were not judged."""
    states = {status: len(found) for status, found in grouped(run.records, lambda r: r["status"]).items()}
    others = [f"{n} {status}" for status, n in states.items() if status != "ok"]
    return _plural(len(run.records), "record") + (f" ({', '.join(others)})" if others else "")


def _counts(runs: Sequence[Run], found: Sequence[Table]) -> str:
    records = [record for run in runs for record in run.records]
    models = ", ".join(sorted({record["model"] for record in records}))
    days = sorted(run.config["started"][:10] for run in runs if run.config.get("started"))
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    tasks = len({table.task for table in found})
    made = f"page made {dt.datetime.now(dt.UTC).date().isoformat()}"
    counts = [_plural(tasks, "task"), _plural(len(runs), "run"), _plural(len(records), "record")]
    return " · ".join(part for part in [models, *counts, when and f"run {when}", made] if part)


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _contents(found: Sequence[Table]) -> Html:
    links = [element("a", table.title, href=f"#t{n}") for n, table in enumerate(found)]
    links.append(element("a", "runs", href="#runs"))
    return element("nav", element("ul", *(element("li", link) for link in links)))


def _overview(found: Sequence[Table]) -> Html:
    """Methods by task."""
    labels = list(dict.fromkeys(row.label for table in found for row in table.rows))
    names = [element("th", t.title + (" (perplexity)" if t.perplexity else ""), scope="col") for t in found]
    body = []
    for label in labels:
        cells = [_overall(table, label) for table in found]
        body.append(element("tr", element("th", label, scope="row"), *cells))
    head = element("tr", element("th", "method", class_="head"), *names)
    table = element("table", element("thead", head), element("tbody", *body))
    note = "The mean over the columns of each task, in percent; a dash where a method lacks one of them."
    return element(
        "section", element("h2", "Overview"), element("p", note, class_="note"), element("div", table, class_="scroll")
    )


def _overall(table: Table, label: str) -> Html:
    row = next((row for row in table.rows if row.label == label), None)
    if row is None:
        return element("td")
    judged = sum(r["score"] is not None for r in row.records)
    text = figures.number(overall(table, row), table.perplexity)
    return element("td", text, element("span", f"n {judged}", class_="sub"))


def _task(table: Table, numbers: dict[str, int], name: str) -> Html:
    own = {row.label: numbers[row.label] for row in table.rows}
    settings = [(row.label, settings_of(row)) for row in table.rows]
    told = [element("div", element("b", label), f": {text}") for label, text in settings if text]
    unit = "Perplexity (less is better)" if table.perplexity else "Percent"
    panels = [chart(curve, numbers) for curve in curves(table)]
    drawn = [element("h3", "Curves"), legend(own), element("div", *panels, class_="panels")] if panels else []
    return element(
        "section",
        element("h2", table.title),
        element("p", about(table), class_="about"),
        scores(table),
        element("p", f"{unit}, with n and the 95 % interval.", class_="note"),
        element("div", *told, class_="settings dim"),
        *drawn,
        heat_maps(table),
        further(table),
        costs(table),
        refusals(table),
        worst(table),
        id=name,
    )


def _run(run: Run, unfolded: bool) -> Html:
    facts = facts_of(run)
    pairs = [part for name, text in facts.items() for part in (element("dt", name), element("dd", text))]
    words = [run.name, facts.get("started", "")[:16].replace("T", " "), run.config["plan"]["model"], facts["records"]]
    return element(
        "details",
        element("summary", " · ".join(filter(None, words))),
        element("dl", *pairs, class_="facts"),
        element("h3", "Recipe for everlong eval --config"),
        element("pre", recipe(run)),
        open="" if unfolded else None,
    )


def _class(name: str) -> type[Task] | None:
    """The task of this name, if this version of everlong has it."""
    try:
        return task_class(name)
    except ConfigError:
        return None
