"""key_value: a list of different keys, one of which is asked for, wherever it stands."""

from __future__ import annotations

import re

import numpy as np
import pytest

from everlong.errors import ConfigError
from everlong.train.data import make_task
from tests.train import made

TASK = make_task("key_value")
TOKENIZER = made.closed(TASK)
PAIR = re.compile(r" The value of (\d+) is (\d+)\.")


@pytest.mark.parametrize("kind", ["closed", "bpe", "bytes"])
def test_the_answer_is_the_value_of_the_key(kind, tmp_path):
    tokenizer = made.tokenizers(TASK, tmp_path)[kind]
    for n in range(10):
        sample = TASK.samples(tokenizer, 64, 900, 0, n)
        text, value = made.text(tokenizer, sample), made.answer(tokenizer, sample)
        pairs = PAIR.findall(text)
        assert len(dict(pairs)) == len(pairs) > 5
        assert all(re.fullmatch(r"[1-9]\d\d", k) and re.fullmatch(r"[1-9]\d{4}", v) for k, v in pairs)
        (key,) = re.findall(r"What is the value of (\d+)\?", text)
        assert dict(pairs)[key] == value
        assert text == "".join(f" The value of {k} is {v}." for k, v in pairs) + (
            f" What is the value of {key}? The value of {key} is {value}"
        )


def test_places_lengths_and_weights():
    depths, totals = [], []
    for n in range(200):
        sample = TASK.samples(TOKENIZER, 64, 512, 0, n)
        text = made.text(TOKENIZER, sample)
        keys = [k for k, _ in PAIR.findall(text)]
        (key,) = re.findall(r"What is the value of (\d+)\?", text)
        depths.append((keys.index(key) + 0.5) / len(keys))
        totals.append(len(sample))
        np.testing.assert_allclose(sample.loss_weight[1:-5], 0.1 * 5 / (len(sample) - 6), rtol=1e-6)
        assert sample.loss_weight[-5:].tolist() == [1.0] * 5
        assert (sample.write_weight == 1).all()
    assert np.abs(np.histogram(depths, bins=4, range=(0, 1))[0] / 200 - 0.25).max() < 0.12
    assert max(totals) <= 512
    assert min(totals) > 256 - 15
    assert len({total % 64 for total in totals}) > 10


def test_sizes_that_do_not_fit_are_said():
    with pytest.raises(ConfigError, match=r"length=20: too short for a pair and a question; give at least \d+"):
        TASK.samples(TOKENIZER, 16, 20, 0, 0)
    with pytest.raises(ConfigError, match=r"key_digits=1: too few for \d+ different keys; give more"):
        make_task("key_value", {"key_digits": 1}).samples(TOKENIZER, 16, 800, 0, 0)
    with pytest.raises(ConfigError, match=r"value_digits=0: expected 1..18"):
        make_task("key_value", {"value_digits": 0})
    alone = TASK.samples(TOKENIZER, 16, 39, 0, 0)
    assert len(PAIR.findall(made.text(TOKENIZER, alone))) == 1
