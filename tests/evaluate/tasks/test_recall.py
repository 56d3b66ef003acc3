"""The task recall: a tiny model asked on copies of a stream, its records, and its options."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks, Dense, Sinks
from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.folder import read_records
from everlong.evaluate.plan import Entry, Plain, Plan, entries
from everlong.evaluate.recall.judge import overlap
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import Setting, make_task
from everlong.evaluate.tasks.recall import RecallTask
from everlong.hooks.adapter import load
from tests.evaluate import layouts
from tests.models.tiny import save_folder

BLOCKS = Blocks(sinks=2, window=60, block=64, top_k=2, exec_chunk=16, pool=8, repr_topk=2)
TASK = RecallTask(("named", "list", "absent"), (1500,), questions=3, tail=200, filler="noise")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Llama trained on 2048 tokens."""
    return load(save_folder(tmp_path_factory.mktemp("model"), max_position_embeddings=2048))


def run(model, task, subjects, out):
    rows = evaluate(Plan((Entry(task, subjects),), chunk=256), model, out)
    return read_records(out), rows


def of(records, method, group, number=None):
    return [
        r for r in records if r["method"] == method and r["group"] == group and (number is None or r["part"] == number)
    ]


def test_answers_are_scored_as_the_plain_model_does(model, tmp_path):
    records, _ = run(model, TASK, (Plain(), Dense(), Sinks(sinks=4, window=2000)), tmp_path / "out")
    assert {r["status"] for r in records} == {"ok"}
    (sample,) = RecallTask(("named",), (1500,), questions=3, tail=200, filler="noise").make_samples(
        Setting(model.tokenizer, Data(None))
    )
    for n, question in enumerate(sample.facts["questions"]):
        read, asked, gold = (model.tokenizer(t)["input_ids"] for t in (sample.context, question.text, question.gold[0]))
        with torch.inference_mode():
            logits = model.model(torch.tensor([read + asked + gold])).logits[0, -len(gold) - 1 : -1].double()
        expected = float(logits.log_softmax(-1)[range(len(gold)), gold].mean())
        for method in ("transformers", "dense", "sinks"):
            (record,) = of(records, method, "named", str(n))
            assert record["facts"]["logp"] == pytest.approx(expected, abs=1e-4)
            assert record["score"] == float(logits.argmax(-1).tolist() == gold)
            assert set(record["scores"]) == {"likelihood"}
    assert [r["score"] for r in of(records, "dense", "absent")] == [None] * 3
    for n in range(3):
        logps = [of(records, m, "list", str(n))[0]["facts"]["logp"] for m in ("transformers", "dense", "sinks")]
        assert logps == pytest.approx([logps[0]] * 3, abs=1e-4)


def test_blocks_say_what_came_back_in_each_way(model, tmp_path):
    task = RecallTask(("named", "absent"), (800,), questions=2, again=(2, 0), tail=130, filler="noise")
    records, rows = run(model, task, (BLOCKS,), tmp_path / "out")
    assert {r["status"] for r in records} == {"ok"}
    voted = of(records, "blocks", "named, again=2")
    assert [r["part"] for r in voted] == ["0, again=2", "1, again=2", "shared, again=2"]
    for record in voted[:2]:
        assert record["facts"]["stored"]
        assert 1 <= len(record["facts"]["recalled"]) <= 2
        assert record["scores"]["rank3"] == 1.0, "the block with most words of the question holds most of the fact"
        assert {"hit", "found", "rank1", "stands_out", "likelihood"} <= set(record["scores"])
    assert 0 <= voted[2]["scores"]["shared"] <= 1
    assert voted[2]["score"] is None
    held = of(records, "blocks", "named, again=0")[:2]
    assert all(r["facts"]["way"] == "blocks" and r["facts"]["citations"] for r in held)
    said = of(records, "blocks", "absent, again=2")[:2]
    assert all(r["score"] == r["scores"]["said_absent"] and r["gold"] is None for r in said)
    assert [r["score"] for r in of(records, "blocks", "absent, again=0")[:2]] == [r["score"] for r in said]
    assert {row["group"] for row in rows} == {f"{kind}, again={n}" for kind in ("named", "absent") for n in (2, 0)}


def test_a_question_leaves_no_trace_in_the_stream(model, tmp_path):
    one = RecallTask(("named",), (800,), questions=2, again=(2,), tail=130, filler="noise")
    twice = RecallTask(("named",), (800,), questions=2, again=(2, 2), tail=130, filler="noise")
    first, _ = run(model, one, (BLOCKS,), tmp_path / "one")
    second, _ = run(model, twice, (BLOCKS,), tmp_path / "twice")
    logps = [r["facts"]["logp"] for r in second if "logp" in r["facts"]]
    assert logps == [r["facts"]["logp"] for r in first if "logp" in r["facts"]] * 2


def test_dense_refuses_what_it_was_not_trained_for(model, tmp_path):
    task = RecallTask(("codes",), (3000,), questions=2, tail=200)
    records, _ = run(model, task, (Plain(), Dense(), Sinks(window=500)), tmp_path / "out")
    status = {r["method"]: r["status"] for r in records}
    assert status == {"transformers": "too long", "dense": "too long", "sinks": "ok"}


def test_overlap_is_that_of_pairs():
    assert overlap([{1, 2}, {2, 3}, {4}]) == pytest.approx(1 / 6)
    assert overlap([[1, 2], [2, 1]]) == 1
    assert overlap([{1}, set(), set()]) == 0
    assert overlap([{1}]) is None
    assert overlap([(), ()]) is None


def test_options_come_from_the_command_line():
    task = make_task("recall", {"again": "0,2,auto", "kinds": "named,list", "lengths": "8K"})
    assert (task.again, task.kinds, task.lengths) == ((0, 2, "auto"), ("named", "list"), (8192,))
    assert make_task("recall", {"again": 0}).again == (0,)
    assert make_task("recall", {"again": "auto"}).again == ("auto",)
    (entry,) = entries([{"name": "recall", "again": [0, 2], "methods": ["blocks"]}], [])
    assert entry.task.again == (0, 2)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"kinds": "names"}, "kinds=names: does not exist; did you mean 'named'"),
        ({"again": "-1"}, "again=-1: expected numbers from 0 on, or auto"),
        ({"again": ""}, "again=: expected"),
        ({"again": "often"}, "again=often"),
        ({"questions": 17}, r"questions=17: expected 1\.\.16"),
        ({"texts": 0}, "texts=0: must be at least 1"),
        ({"tail": -1}, "tail=-1: must be at least 0"),
        ({"lengths": "0"}, "lengths=0"),
        ({"filler": "gulls"}, "filler=gulls: does not exist"),
    ],
)
def test_bad_options_are_one_clear_line(option, says):
    with pytest.raises(ConfigError, match=says) as caught:
        make_task("recall", option)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_made_is_named():
    with pytest.raises(InputError, match="--data: missing"):
        next(RecallTask(("named",)).make_samples(layouts.setting()))
    for kind in ("named", "pairs"):
        with pytest.raises(ConfigError, match="lengths="):
            list(RecallTask((kind,), (60,), filler="noise").make_samples(layouts.setting()))


def test_gold_scores_one_and_silence_nothing():
    (sample,) = (
        TASK.make_samples(layouts.setting())
        if len(TASK.kinds) == 1
        else [next(iter(TASK.make_samples(layouts.setting())))]
    )
    assert TASK.score(sample.gold[0], sample) == 1
    assert TASK.score("", sample) == TASK.score(" no", sample) == 0
