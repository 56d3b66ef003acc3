"""Perplexity by position: the figures by hand, the files, and that it equals the model's own loss."""

from __future__ import annotations

import math

import pytest
import torch

from everlong import Sinks
from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.plan import Entry, Plain, Plan
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import Setting, make_task
from everlong.evaluate.tasks.ppl import Ppl
from everlong.text.tokenize import token_ids
from tests.evaluate.fakes import EchoStream
from tests.models.tiny import byte_tokenizer

TEXT = "It was the best of times; the tide rose and the tide fell, and nobody knew the hour. " * 3


@pytest.fixture
def setting(tmp_path):
    (tmp_path / "pg19").mkdir()
    (tmp_path / "pg19" / "b.txt").write_text(
        "***START OF THE BOOK IN\nTWO LINES***\n" + TEXT + "\n*** END OF THE BOOK ***\nLicence"
    )
    (tmp_path / "pg19" / "a.tex").write_text("$x$ " + TEXT)
    return Setting(byte_tokenizer(), Data(tmp_path))


def only(task, setting, **fake):
    (sample,) = task.make_samples(setting)
    stream = EchoStream(**fake)
    (outcome,) = task.run(stream, sample)
    return sample, outcome, stream


def test_the_first_tokens_of_each_file(setting):
    samples = list(Ppl(tokens=30).make_samples(setting))
    assert [(s.id, s.group, s.length) for s in samples] == [("a", "pg19", 30), ("b", "pg19", 30)]
    assert samples[1].facts["ids"] == token_ids(setting.tokenizer, TEXT.strip())[:30]
    assert TEXT.startswith(samples[1].context)
    assert list(Ppl(tokens=30).make_samples(setting)) == samples
    assert [s.id for s in Ppl(tokens=30, files=("b.txt", "a")).make_samples(setting)] == ["b", "a"]


def test_bins_by_hand(setting):
    nats = {2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: 5.0}
    task = Ppl(tokens=7, first=2, bin=3, files=("b",))
    _, outcome, stream = only(task, setting, logprob=lambda n: -nats.get(n, 99.0))
    assert stream.seen_tokens == 7
    facts = outcome.facts
    assert (facts["nll_sum"], facts["tokens"], facts["perplexity"]) == (15.0, 5, pytest.approx(math.exp(3)))
    assert outcome.score == pytest.approx(math.exp(-3))
    assert [(b["start"], b["end"], b["nll_sum"], b["tokens"]) for b in facts["bins"]] == [
        (2, 3, 1.0, 1),
        (3, 6, 9.0, 3),
        (6, 7, 5.0, 1),
    ]
    assert facts["bins"][1]["perplexity"] == pytest.approx(math.exp(3))


def test_the_first_token_of_all_is_not_judged(setting):
    _, outcome, _ = only(Ppl(tokens=5, files=("a",)), setting, logprob=lambda n: -0.5)
    assert (outcome.facts["tokens"], outcome.score) == (4, pytest.approx(math.exp(-0.5)))


def test_a_sure_model_scores_one_and_a_bad_one_nothing(setting):
    task = Ppl(tokens=9, files=("a",))
    assert only(task, setting, logprob=lambda n: 0.0)[1].score == 1
    assert only(task, setting, logprob=lambda n: -500.0)[1].score == pytest.approx(0, abs=1e-99)


def test_progress_counts_the_characters(setting):
    told = []
    task = Ppl(tokens=30, files=("a",))
    (sample,) = task.make_samples(setting)
    stream = EchoStream()
    stream.clock.tick = told.append
    list(task.run(stream, sample))
    assert sum(told) + 30 == pytest.approx(len(sample.context), abs=4)


def test_it_equals_the_models_own_loss(tiny, setting, tmp_path):
    task = make_task("ppl", {"tokens": "60", "files": "b"})
    rows = evaluate(
        Plan((Entry(task, (Plain(), Sinks(sinks=2, window=100))),), chunk=16),
        tiny,
        tmp_path / "out",
        setting.data,
    )
    (sample,) = task.make_samples(Setting(tiny.tokenizer, setting.data))
    ids = torch.tensor([sample.facts["ids"]])
    with torch.inference_mode():
        loss = float(tiny.model(ids, labels=ids).loss)
    assert [row["score"] for row in rows] == pytest.approx([math.exp(-loss)] * 2, rel=1e-4)


def test_bad_options(setting):
    for options, words in [
        ({"bin": 0}, "bin=0: must be at least 1"),
        ({"tokens": 5, "first": 5}, "first=5: expected 0..4; tokens=5"),
        ({"first": -1}, "first=-1: expected"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Ppl(**options)
    with pytest.raises(InputError, match=r"files=c: not in pg19; .*a\.tex, b\.txt"):
        list(Ppl(files=("c",)).make_samples(setting))
    with pytest.raises(InputError, match="has no books/"):
        list(
            Ppl(folder="books", files=("c",)).make_samples(
                Setting(setting.tokenizer, Data(setting.data.path / "pg19" / ".."))
            )
        )


def test_a_file_with_too_few_tokens(setting):
    (setting.data.path / "pg19" / "b.txt").write_text("x")
    with pytest.raises(InputError, match=r"b\.txt: has 1 tokens, expected more than first=0"):
        list(Ppl(files=("b",)).make_samples(setting))


@pytest.mark.parametrize("folder", ["pg19", "books", "math"])
def test_real_files(folder, data_dir):
    setting = Setting(byte_tokenizer(), Data(data_dir))
    samples = list(Ppl(folder=folder, tokens=50).make_samples(setting))
    assert len(samples) == len(list((data_dir / folder).glob("*.t[xe][tx]")))
    assert all(len(s.facts["ids"]) == 50 and "Project Gutenberg" not in s.context for s in samples)
