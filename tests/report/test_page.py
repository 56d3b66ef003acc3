"""The page: well-formed, nothing from elsewhere, every text escaped, every status told; and the tables as Markdown."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser

import pytest

from everlong.config import load_yaml
from everlong.evaluate.plan import entries
from everlong.report.chart import chart
from everlong.report.curves import Curve, Point
from everlong.report.markdown import markdown
from everlong.report.markup import Html, element
from everlong.report.page import page, recipe
from everlong.report.runs import Run
from everlong.report.samples import CLIP
from tests.report.made import config, perplexity, record, refused

EVIL = '<script>alert("x")</script>\' onload="y" & <b>|`*_'
VOID = {"meta"}


class Reader(HTMLParser):
    """Takes a page apart; fails where tags are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.given: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.given += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def run(*records, name="run", **fields):
    return Run(name, config(**fields), list(records))


def grid():
    """Two lengths and depths on three methods, one of which cannot take the longer."""
    for length in (400, 800):
        for depth in (0.1, 0.9):
            at = {"length": length, "depth": depth, "id": f"{length}-{depth}"}
            yield record(method="transformers", **at)
            yield record(method="sinks", score=float(depth > 0.5), prediction=" a wrong one", **at)
            if length > 400:
                yield refused("too long", "800 tokens: dense attention takes 512", method="dense", **at)
            else:
                yield record(method="dense", **at)


def whole():
    """Runs of several tasks with all that a page may have to show."""
    bins = [
        {"start": 0, "end": 64, "tokens": 64, "perplexity": 9.0},
        {"start": 64, "end": 128, "tokens": 64, "perplexity": 11.0},
    ]
    ppl = [perplexity(10.0, id=str(n), group="pg19", length=128, facts={"bins": bins}) for n in range(2)]
    several = [record("booksum", group=g, id=g, score=0.25, scores={"rouge1": 0.5}) for g in ("squality", "qmsum")]
    return [
        run(*grid(), name="one"),
        run(*ppl, *several, refused("cannot", "nothing is stored", task="booksum", method="dense"), name="two"),
    ]


def test_a_page_is_well_formed_and_takes_nothing_from_elsewhere():
    text = page(whole())
    read = Reader(text)
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert not {"script", "link", "img", "iframe", "object", "form", "input"} & set(read.tags)
    links = [value for _, name, value in read.given if name in ("href", "src", "srcset", "action")]
    ids = [value for _, name, value in read.given if name == "id"]
    assert links
    assert all(link and link[0] == "#" and link[1:] in ids for link in links)
    assert len(ids) == len(set(ids))
    assert not [name for _, name, _ in read.given if name.startswith("on") or name == "style"]
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in read.given
    assert ("meta", "content", "width=device-width, initial-scale=1") in read.given
    assert "prefers-color-scheme: dark" in text


def test_every_text_is_escaped():
    evil = record(
        EVIL,
        settings={"window": EVIL, EVIL: 1},
        **dict.fromkeys(("model", "id", "part", "group", "prediction"), EVIL),
        length=400,
        depth=0.5,
        score=0.0,
        scores={EVIL: 0.5},
        options={EVIL: EVIL},
        gold=[EVIL],
    ) | {"method": EVIL}
    evil["report"] = {"method": f"x({EVIL})", "bytes": {}}
    second = refused("cannot", EVIL, task=EVIL, options={EVIL: EVIL}) | {"status": EVIL}
    other = record(prediction={"answer": [EVIL]}, score=0.5)
    facts = config(model=EVIL, dtype=EVIL) | {"started": EVIL, "commit": EVIL, "data": EVIL, "versions": {EVIL: EVIL}}
    facts["machine"] = {"processor": EVIL, "system": EVIL, "cuda": EVIL}
    facts["plan"]["entries"] = [{"task": {"name": EVIL, EVIL: EVIL}, "methods": [{"name": EVIL}]}]
    text = page([Run(EVIL, facts, [evil, second, other])], title=EVIL)
    read = Reader(text)
    assert "script" not in read.tags
    assert "<b>|" not in text
    assert not [name for _, name, _ in read.given if name.startswith("on")]
    assert read.text.count('<script>alert("x")</script>\' onload=') > 15
    plain = markdown([Run(EVIL, facts, [evil, second, other])])
    assert "<script" not in plain.replace("\\<", "")
    bars = [line.replace("\\|", "").count("|") for line in plain.splitlines()]
    for before, here in itertools.pairwise(bars):
        assert before == here or 0 in (before, here)


def test_elements_escape_what_is_not_markup():
    assert element("td", 'a < b & "c"', class_="x\" y='") == (
        '<td class="x&quot; y=&#x27;">a &lt; b &amp; &quot;c&quot;</td>'
    )
    assert element("p", element("b", "<"), None, 3, hidden=None) == "<p><b>&lt;</b>3</p>"
    assert element("svg", Html("<path>"), text_anchor="end") == '<svg text-anchor="end"><path></svg>'


def test_scores_stand_with_n_and_interval():
    text = Reader(page([run(*grid())])).text
    assert "transformers 100.0 n 2 · 34.2–100.0 100.0 n 2 · 34.2–100.0 100.0" in text
    assert "sinks 50.0 n 2 · 9.5–90.5" in text
    assert "dense 100.0 n 2 · 34.2–100.0 too long 2 –" in text
    assert "dense : 2 too long (800 tokens: dense attention takes 512)" in text


def test_what_was_judged_in_part_says_so():
    found = [record(id="a"), refused("cannot", "the disk is full", id="b"), refused("too long", "why", id="c")]
    text = Reader(page([run(*found)])).text
    assert "n 1 · 20.7–100.0 + 1 too long 1 cannot" in text
    assert "not judged" in Reader(page([run(record(score=None))])).text
    assert "cannot 2" in Reader(page([run(*(refused("cannot", "why", id=n) for n in "ab"))])).text


def test_heat_maps_have_a_cell_for_each_length_and_depth():
    text = page([run(*grid())])
    maps = re.findall(r'<table class="heat">(.*?)</table>', text)
    assert [re.search("<caption>(.*?)</caption>", one)[1] for one in maps] == ["transformers", "sinks", "dense"]
    assert re.findall(r'<td class="h(\d+)" [^>]*>(\d+)</td>', maps[1]) == [
        ("0", "0"),
        ("0", "0"),
        ("10", "100"),
        ("10", "100"),
    ]
    assert maps[2].count('class="not">too long') == 2
    assert '<table class="heat">' not in page([run(record(length=400))])


def test_perplexity_is_shown_as_such():
    text = Reader(page(whole())).text
    assert "Perplexity (less is better)" in text
    assert "10.00 n 2" in text
    assert "Perplexity by position" in text


def test_further_metrics_cost_and_refusals():
    text = Reader(page(whole())).text
    assert "Further metrics, % method rouge1 blocks 50.0" in text
    assert "method samples score, % tokens/s s a sample tokens read written peak memory held, device" in text
    assert "dense : 1 cannot (nothing is stored)" in text


def test_the_worst_samples_are_shown_with_what_was_right():
    long = "x" * (CLIP + 50)
    found = [record(id=f"s{n}", score=n / 10, prediction=f"answer {n}") for n in range(8)]
    found[0]["prediction"] = long
    found[1]["gold"] = ["one", "two"]
    text = Reader(page([run(*found)])).text
    assert "Worst samples (3 shown, 8 below the full score)" in text
    assert f"{long[:CLIP]}… ({len(long)} characters)" in text
    assert "blocks · 10.0 · s1 predicted answer 1 gold one | two" in text
    assert "answer 3" not in text
    assert "Worst samples" not in page([run(record())])


def test_runs_are_told_with_machine_versions_commit_and_recipe():
    text = Reader(page(whole())).text
    for words in ("2026-11-22T12:00:00+00:00", "Test CPU, 2 cores, 1 threads, 25.0 GB", "torch 2.13.0", "0123abc"):
        assert words in text
    assert "two · 2026-11-22 12:00 · smollm2 · 5 records (1 cannot)" in text
    assert "1 run · 1 record ·" in Reader(page([run(record())])).text


def test_the_recipe_of_a_run_gives_its_plan_again(tmp_path):
    made = run(record())
    (tmp_path / "recipe.yaml").write_text(recipe(made))
    content = load_yaml(tmp_path / "recipe.yaml")
    (entry,) = entries(content.pop("tasks"), [])
    assert entry.task.as_dict() | {"name": "passkey", "version": 1} == {
        "filler": "noise",
        "needles": 1,
        **made.config["plan"]["entries"][0]["task"],
        "lengths": (400, 800),
        "depths": (0.1, 0.9),
    }
    assert [subject.name for subject in entry.subjects] == ["transformers", "dense", "sinks", "blocks"]
    assert content == {"model": "smollm2", "dtype": "auto", "device": "auto", "chunk": 512, "threads": 1, "seed": 0}


def test_figures_that_are_no_numbers_and_tasks_that_are_unknown():
    odd = record("task of another version", score=math.nan, length=400, seconds=0.0, peak_rss_bytes=None)
    text = Reader(page([run(odd, record("task of another version", score=0.5, length=800, id="1"))])).text
    assert "task of another version" in text
    assert "nan" not in text.lower().replace("nano", "")


def test_a_chart_puts_its_marks_where_the_figures_are():
    curve = Curve("Score", {"a": [Point(400, 0.0), Point(1600, 1.0, 0.5, 1.0)]}, str, top=1.0)
    drawing = chart(curve, {"a": 0})
    marks = [(float(x), float(y)) for x, y in re.findall(r'translate\(([\d.]+),([\d.]+)\)"', drawing)]
    assert [y for _, y in marks] == [186.0, 10.0]
    assert 58 <= marks[0][0] < marks[1][0] <= 348
    assert re.search(r'd="M[\d.]+,98\.0V10\.0" class="whisker"', drawing)
    assert chart(Curve("flat", {"a": [Point(1, 5.0), Point(2, 5.0)]}, str), {"a": 9})


def test_tables_as_markdown():
    text = markdown(whole())
    assert "| method | 400 | 800 | mean |\n|---|---:|---:|---:|\n" in text
    assert "| sinks | 50.0 (n 2, 9.5–90.5) | 50.0 (n 2, 9.5–90.5) | 50.0 |" in text
    assert "| dense | 100.0 (n 2, 34.2–100.0) | too long | – |" in text
    assert "| blocks | 10.00 (n 2) |" in text
    assert "- one: started 2026-11-22T12:00:00+00:00" in text
    assert "commit 0123abc" in text


@pytest.mark.parametrize("count", [1, 9])
def test_more_methods_than_colours(count):
    found = [record(settings={"window": n}, length=length, id=str(length)) for n in range(count) for length in (1, 2)]
    text = page([run(*found)])
    assert text.count("<figure") == 3
    Reader(text)
