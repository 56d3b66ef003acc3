"""What every task keeps to, whoever adds it: described options, samples by number alone, weights that fit."""

from __future__ import annotations

import dataclasses
import pickle
import sys

import numpy as np
import pytest

from everlong.errors import ConfigError
from everlong.train.data import TrainingTask, make_task, task_class, task_names
from tests.models.tiny import byte_tokenizer
from tests.train import made

TOKENIZER = byte_tokenizer()


@pytest.fixture(params=task_names())
def task(request, tmp_path) -> TrainingTask:
    """Each task, on books of our own where it reads any."""
    needs_data = "data" in {field.name for field in dataclasses.fields(task_class(request.param))}
    data = {"data": str(made.books(tmp_path / "books")), "cache": str(tmp_path / "cache")} if needs_data else {}
    return make_task(request.param, data)


def test_all_are_there():
    assert task_names() == ["books", "key_value", "natural", "needles", "passkey"]


def test_every_option_has_a_help(task):
    assert (sys.modules[type(task).__module__].__doc__ or "").startswith(f"{task.name}: ")
    assert all(field.metadata["help"] for field in dataclasses.fields(task))
    assert make_task(task.name, task.as_dict()) == task
    assert task.as_dict() == {name: value for name, value in task.as_dict().items() if not isinstance(value, tuple)}


def test_a_sample_depends_on_seed_and_index_alone(task):
    here = [task.samples(TOKENIZER, 63, 700, 7, n) for n in (0, 1, 2, 10**12)]
    again = [pickle.loads(pickle.dumps(task)).samples(TOKENIZER, 63, 700, 7, n) for n in (10**12, 2, 1, 0)]
    assert all(made.same(a, b) for a, b in zip(here, again[::-1], strict=True))
    other = [task.samples(TOKENIZER, 63, 700, 8, n) for n in (0, 1, 2)]
    found = [sample.ids.tobytes() for sample in here + other]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("length", [520, 1500])
def test_shapes_and_weights_fit(task, length):
    for n in range(20):
        sample = task.samples(TOKENIZER, 63, length, 0, n)
        T = len(sample)
        assert len(sample) <= length
        arrays = (sample.ids, sample.loss_weight, sample.write_weight, sample.document)
        assert [x.shape for x in arrays] == [(T,)] * 4
        assert [x.dtype for x in arrays] == [np.int64, np.float32, np.float32, np.int64]
        assert (sample.ids >= 0).all()
        assert (sample.ids < len(TOKENIZER)).all()
        assert sample.loss_weight[0] == 0
        assert (sample.loss_weight >= 0).all()
        assert (sample.write_weight == 1).all()
        assert (np.diff(sample.document, prepend=0) >= 0).all()


def test_an_answer_ends_the_sample(task):
    sample = task.samples(TOKENIZER, 63, 700, 0, 3)
    if task.name == "books":
        assert sample.answer == (0, 0)
    else:
        assert sample.answer == (len(sample) - 5, len(sample))
        assert made.answer(TOKENIZER, sample).isdigit()
        assert (sample.loss_weight[slice(*sample.answer)] == 1).all()


@pytest.mark.parametrize(
    ("segment", "length", "said"),
    [
        (0, 700, r"segment=0: expected 1..700 \(length=700\)"),
        (701, 700, r"segment=701: expected 1..700 \(length=700\); make it shorter, or samples longer"),
        (1, 1, r"length=1: must be at least 2"),
    ],
)
def test_sizes_that_do_not_fit_are_said(task, segment, length, said):
    with pytest.raises(ConfigError, match=said):
        task.samples(TOKENIZER, segment, length, 0, 0)


def test_names_and_options_that_do_not_exist_are_said():
    with pytest.raises(ConfigError, match=r"training task 'paskey': does not exist; did you mean 'passkey'\? known: "):
        make_task("paskey")
    with pytest.raises(
        ConfigError, match="digit=5: training task passkey has no option 'digit'; did you mean 'digits'"
    ):
        make_task("passkey", {"digit": 5})
    with pytest.raises(ConfigError, match="data: missing; training task books needs it"):
        make_task("books")
    with pytest.raises(ConfigError, match="repeat=much: expected a number"):
        make_task("passkey", {"repeat": "much"})
