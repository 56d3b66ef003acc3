"""Tables from records: figures by hand, what is told as one and what apart, cost, curves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from everlong.errors import InputError
from everlong.evaluate.summary import interval
from everlong.report.cost import Cost, cost_table
from everlong.report.curves import curves
from everlong.report.runs import Run, find_runs
from everlong.report.scores import overall
from everlong.report.tables import TableCell, pooled_perplexity, tables
from tests.report.made import config, perplexity, record, refused, write


def run(*records, name="run", **fields):
    return Run(name, config(**fields), list(records))


def only(*records):
    """The one table of these records."""
    (table,) = tables([run(*records)])
    return table


def test_a_cell_has_the_mean_and_the_interval_of_the_summary():
    scores = [1.0, 0.0, 1.0, 0.5]
    cell = TableCell.of([record(score=score, id=str(n)) for n, score in enumerate(scores)])
    assert (cell.n, cell.value, (cell.low, cell.high)) == (4, 0.625, interval(scores))


def test_records_without_a_score_are_counted_apart():
    found = [record(score=1.0), refused("too long", "why"), refused("cannot", "why"), record(score=None)]
    cell = TableCell.of([*found, refused("too long", "why")])
    assert (cell.n, cell.value, cell.too_long, cell.cannot) == (1, 1.0, 2, 1)
    assert TableCell.of(found[1:2]).value is None


def test_columns_are_parts_in_their_order_by_length():
    table = only(*(record(group=g, length=n, id=f"{g}{n}") for g, n in (("b", 800), ("a", 400), ("b", 400))))
    assert table.places == [("b", 400), ("b", 800), ("a", 400)]
    assert list(table.rows[0].by_length()) == [400, 800]


def test_the_mean_counts_columns_once_and_is_left_out_where_one_is_missing():
    many = [record(group="a", id=str(n), score=1.0) for n in range(9)]
    table = only(*many, record(group="b", score=0.0), *(r | {"method": "sinks"} for r in many))
    assert [row.label for row in table.rows] == ["blocks", "sinks"]
    assert overall(table, table.rows[0]) == 0.5
    assert overall(table, table.rows[1]) is None


def test_perplexity_is_pooled_over_tokens():
    found = [perplexity(10.0, 100, id="a"), perplexity(20.0, 300, id="b")]
    value, low, high = pooled_perplexity(found)
    assert value == pytest.approx(math.exp((100 * math.log(10) + 300 * math.log(20)) / 400))
    assert (low, high) == (pytest.approx(10.0), pytest.approx(20.0))
    bare = [record("ppl", score=1 / 10, id="a"), record("ppl", score=1 / 20, id="b")]
    assert only(*bare).cell(bare).value == pytest.approx(math.sqrt(200))
    assert only(*found).perplexity
    assert pooled_perplexity([]) == (None, None, None)


def test_a_perplexity_beside_another_score_is_not_the_score():
    assert not only(record("mtbench_stream", score=0.5, facts={"perplexity": 10.0})).perplexity
    assert only(record("mtbench_stream", score=0.1, facts={"perplexity": 10.0})).perplexity
    assert not only(record(score=None)).perplexity


def test_one_sample_has_no_interval_by_resampling():
    assert TableCell.of([record(score=0.4)]).low is None
    assert TableCell.of([record(score=1.0)]).low == pytest.approx(interval([1.0])[0])


def test_runs_without_a_sample_in_common_are_one_row():
    short, long = (run(record(length=n, id=str(n)), name=f"run {n}") for n in (400, 800))
    (table,) = tables([short, long])
    (row,) = table.rows
    assert (row.label, row.runs, len(row.records)) == ("blocks", ("run 400", "run 800"), 2)


@pytest.mark.parametrize("fields", [{}, {"seed": 7}, {"dtype": "bfloat16"}, {"chunk": 64}])
def test_runs_of_the_same_samples_or_of_other_settings_are_rows_of_their_own(fields):
    apart = {} if not fields else {"id": "1"}
    found = tables([run(record(), name="one"), run(record(score=0.0, **apart), name="two", **fields)])
    assert [row.label for row in found[0].rows] == ["blocks (one)", "blocks (two)"]


def test_only_the_runs_that_have_the_row_are_named():
    first = [run(record(), name="one"), run(record("niah"), name="not this")]
    found = tables([*first, run(record(score=0.0), name="two"), run(record("niah", id="1"), name="nor this")])
    assert [row.label for row in found[0].rows] == ["blocks (one)", "blocks (two)"]
    assert [(table.task, [row.label for row in table.rows]) for table in found[1:]] == [("niah", ["blocks"])]


def test_another_commit_is_another_row():
    later = run(record(id="1"), name="later")
    later.config["commit"] = "fedcba9"
    assert len(tables([run(record()), later])[0].rows) == 2


def test_threads_and_limit_do_not_part_runs():
    assert len(tables([run(record()), run(record(id="1"), threads=2, limit=1)])[0].rows) == 1


def test_labels_tell_the_settings_and_the_model_where_they_differ():
    wide = {"sinks": 64, "window": 512, "block": 64}
    table = only(record(), record(settings=wide), record(model="other"), record(method="transformers"))
    assert [row.label for row in table.rows] == [
        "blocks window=128 smollm2",
        "blocks window=512 smollm2",
        "blocks window=128 other",
        "transformers smollm2",
    ]


def test_a_label_is_one_and_the_same_method_in_all_tables():
    wide = {"sinks": 64, "window": 512, "block": 64}
    found = tables([run(record(), record("niah", settings=wide), record("niah", method="sinks"))])
    assert [row.label for table in found for row in table.rows] == ["blocks window=128", "blocks window=512", "sinks"]


def test_options_that_say_how_much_was_run_do_not_part_tables():
    found = [
        record(options={"lengths": [400], "depths": [0.1], "samples": 1, "filler": "noise"}, length=400),
        record(options={"lengths": [800], "depths": [0.1], "samples": 2, "filler": "noise"}, length=800),
        record(options={"lengths": [400], "depths": [0.1], "samples": 1, "filler": "books", "keys": None}, length=400),
        record(version=2, options={"filler": "noise"}),
        record("niah", options={"needles": 1}),
    ]
    made = tables([run(found[4], *found[:4])])
    assert made[0].title == "niah"
    made = tables([run(*found[:2], found[4], *found[2:4])])
    assert [table.title for table in made] == [
        "passkey, version=1, filler=noise",
        "passkey, version=1, filler=books",
        "passkey, version=2, filler=noise",
        "niah",
    ]
    assert made[0].places == [("", 400), ("", 800)]


def test_cost_counts_each_sample_once():
    stream = [record(id="a", part=f"q{n}", prompt_tokens=100 * n, seconds=3.0, new_tokens=5) for n in (1, 2, 4)]
    stream[1]["report"] = stream[1]["report"] | {"bytes": {"device": 10, "host": 2_000_000}}
    other = record(id="b", prompt_tokens=800, truncated_tokens=600, seconds=1.0, new_tokens=1, peak_rss_bytes=None)
    cost = Cost.of([*stream, other, refused("too long", "why", id="c")])
    assert cost is not None
    assert (cost.samples, cost.read_tokens, cost.left_out_tokens) == (2, 300.0, 300.0)
    assert (cost.new_tokens, cost.seconds, cost.tokens_per_s) == (8.0, 5.0, 60.0)
    assert cost.peak_rss_bytes == 1_000_000_000
    assert cost.held_bytes == {"device": 1_500_000, "host": 2_000_000, "disk": 0}
    assert Cost.of([refused("too long", "why")]) is None


def test_the_cost_table_has_lengths_where_there_are_several():
    table = only(record(length=400), record(length=800, id="1"), refused("too long", "why", method="dense", length=800))
    names, rows = cost_table(table)
    assert names[:5] == ["length", "samples", "score, %", "tokens/s", "s a sample"]
    assert names[5:] == ["tokens read", "written", "peak memory", "held, device"]
    assert rows["blocks"][0] == ["400", "1", "100.0", "200", "2", "400", "8", "1.0 GB", "1.5 MB"]
    assert rows["dense"] == [["800", "–", "too long", "–", "–", "–", "–", "–", "–"]]
    assert cost_table(only(refused("cannot", "why")))[1] == {}


def test_curves_need_two_points():
    assert curves(only(record(length=400))) == []
    assert curves(only(record())) == []
    found = curves(only(record(length=400), record(length=800, id="1", score=0.0)))
    assert [curve.title for curve in found] == ["Score over length, %", "Tokens read a second", "Memory held"]
    assert [(p.x, p.y) for p in found[0].lines["blocks"]] == [(400, 1.0), (800, 0.0)]


def test_perplexity_by_position_pools_the_bins_of_all_files():
    bins = [
        [
            {"start": 0, "end": 64, "tokens": 63, "perplexity": 10.0},
            {"start": 64, "end": 128, "tokens": 64, "perplexity": 5.0},
        ],
        [
            {"start": 0, "end": 64, "tokens": 63, "perplexity": 40.0},
            {"start": 64, "end": 99, "tokens": 0, "perplexity": None},
        ],
    ]
    found = curves(only(*(perplexity(9.0, id=str(n), facts={"bins": b}) for n, b in enumerate(bins))))
    assert [curve.title for curve in found] == ["Perplexity by position"]
    points = [(point.x, pytest.approx(point.y)) for point in found[0].lines["blocks"]]
    assert points == [(64, 20.0), (128, 5.0)]


def test_the_score_along_a_stream_where_samples_have_many_questions():
    stream = [record(part=f"q{n}", prompt_tokens=100 * (n + 1), score=float(n < 8)) for n in range(16)]
    (curve,) = curves(only(*stream))
    assert curve.title == "Score along the stream, %"
    assert [point.y for point in curve.lines["blocks"]][:3] == [1.0, 1.0, 1.0]
    assert [point.y for point in curve.lines["blocks"]][-3:] == [0.0, 0.0, 0.0]


def test_runs_are_found_below_a_folder(tmp_path):
    write(tmp_path / "b", [record()])
    write(tmp_path / "deep" / "a", [record(score=0.0)])
    write(tmp_path / "just begun", [])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert [(r.name, len(r.records)) for r in find_runs(tmp_path)] == [("b", 1), ("deep/a", 1), ("just begun", 0)]
    assert [r.name for r in find_runs(tmp_path / "b")] == ["b"]


def test_a_record_that_is_being_written_does_not_count(tmp_path):
    file = write(tmp_path, [record(), record(id="1")]) / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert len(find_runs(tmp_path)[0].records) == 1


def damage(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", r"config\.json: not the config of a run"),
        ("config.json", b'{"plan": {"entries": [3], "model": "m"}}', r"config\.json: plan\.entries\.0: "),
        ("config.json", b'{"plan": {"entries": []}}', r"config\.json: plan\.model: "),
        ("records.jsonl", b"{\n", r"records\.jsonl: not JSON"),
        ("records.jsonl", b'{"task": "x"}\n', r"records\.jsonl:1: version: "),
        ("records.jsonl", b"\xff\n", r"records\.jsonl: not UTF-8 text \(byte 0\)"),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path, name, content, message):
    damage(write(tmp_path, [record()]), name, content)
    with pytest.raises(InputError, match=message) as caught:
        find_runs(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_names_its_line(tmp_path):
    write(tmp_path, [record(), record(score="high")])
    with pytest.raises(InputError, match=r"records\.jsonl:2: score: .*number"):
        find_runs(tmp_path)


def test_no_run_is_said(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_runs(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no run \(config\.json and records\.jsonl\)"):
        find_runs(tmp_path)
    write(tmp_path / "a", [])
    with pytest.raises(InputError, match="holds 1 runs without a record"):
        find_runs(tmp_path)


def test_a_benchmark_is_called_by_the_name_that_its_records_give():
    mini = [record(task="longbench", id=str(n), facts={"benchmark": "MiniLongBench"}) for n in range(2)]
    unjudged = refused("too long", "why", task="longbench", id="9")
    table = only(*mini, unjudged)
    assert (table.task, table.title) == ("longbench", "MiniLongBench (task longbench)")
    both = only(*mini, record(task="longbench", id="7", facts={"benchmark": "LongBench"}))
    assert both.title == "LongBench and MiniLongBench (task longbench)"
    assert only(record(task="longbench")).title == "longbench"
