"""kv_retrieval: valid JSON with the asked pair in it, generated or from the official file, whole or in part."""

from __future__ import annotations

import json
import re

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.kv_retrieval import KvRetrieval
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream

FILE = "kv-retrieval-12_keys.jsonl"


def pairs(sample):
    """The object in the text."""
    return json.loads(sample.context[sample.context.index("{") :])


def key(sample):
    return re.findall(r'"([^"]+)": "$', sample.question)[0]


def answered(text, question):
    """What a perfect reader says."""
    return json.loads(text[text.index("{") :])[re.findall(r'"([^"]+)": "$', question)[0]]


def test_generated_objects_hold_the_asked_pair_and_the_example():
    task = KvRetrieval(lengths=(2000, 5000), depths=(0.0, 0.5, 1.0))
    for sample in task.make_samples(layouts.setting()):
        found = pairs(sample)
        assert found[key(sample)] == sample.gold[0]
        example = json.loads(sample.question[: sample.question.rindex(",")].strip() + "}")
        assert example.items() <= found.items()
        assert key(sample) not in example
        assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", v) for kv in found.items() for v in kv)
        place = list(found).index(key(sample)) / (len(found) - 1)
        assert abs(place - sample.depth) < 1.5 / len(found)
        (outcome,) = task.run(EchoStream(answered), sample)
        assert outcome.score == 1.0


def test_the_official_file_in_its_order(tmp_path):
    setting = layouts.setting(layouts.kv(tmp_path))
    first, second = KvRetrieval(origin="file").make_samples(setting)
    assert list(pairs(first)) == [f"key-{name}" for name in layouts.NAMES]
    assert (first.gold, key(first)) == (("value-0-amber",), "key-amber")
    assert (second.gold, second.facts) == (("value-7-hazel",), {"keys": 12, "depth": 7 / 11})
    assert (first.id, second.id, first.group) == ("12_keys-0", "12_keys-1", "12_keys")
    assert first.question == '\n\n{"key-ginger": "value-6-ginger",\n "key-amber": "'


def test_fewer_keys_keep_the_depth(tmp_path):
    setting = layouts.setting(layouts.kv(tmp_path))
    first, second = KvRetrieval(origin="file", keys=4).make_samples(setting)
    assert list(pairs(first)) == ["key-amber", "key-basil", "key-cedar", "key-daisy"]
    assert list(pairs(second)) == ["key-fern", "key-ginger", "key-hazel", "key-iris"]
    (outcome,) = KvRetrieval().run(EchoStream(answered), second)
    assert (outcome.score, outcome.facts) == (1.0, {"keys": 4, "depth": 2 / 3})
    with pytest.raises(ConfigError, match="keys=13: a sample has 12"):
        list(KvRetrieval(origin="file", keys=13).make_samples(setting))


def test_the_value_is_judged():
    (sample,) = KvRetrieval(lengths=(800,), depths=(0.5,)).make_samples(layouts.setting())
    task, value = KvRetrieval(), sample.gold[0]
    assert task.score(f' {value.upper()}"', sample) == 1
    assert task.score(value[:-1], sample) == 0


def test_options_without_effect_are_refused():
    with pytest.raises(ConfigError, match="keys=5: no effect on generated pairs"):
        KvRetrieval(keys=5)
    for fields in ({"lengths": (100,)}, {"depths": (0.3,)}, {"samples": 2}):
        with pytest.raises(ConfigError, match="origin=file: lengths, depths and samples have no effect"):
            KvRetrieval(origin="file", **fields)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"ordered_kv_records": [["a", "b"]], "key": "a", "value": "c"}, "sample 0: the asked pair is not among"),
        ({"ordered_kv_records": [["a", "b"], ["c"]], "key": "a", "value": "b"}, "sample 0: the asked pair"),
        ({"ordered_kv_records": "ab", "key": "a", "value": "b"}, "sample 0: the asked pair"),
        ({"ordered_kv_records": [[1, 2], 3], "key": 1, "value": 2}, "sample 0: the asked pair"),
        ({"key": "a", "value": "c"}, "lacks the field 'ordered_kv_records'"),
    ],
)
def test_damaged_files_are_named(tmp_path, row, says):
    layouts.kv(tmp_path)
    (tmp_path / "kv" / FILE).write_text(json.dumps(row))
    with pytest.raises(InputError, match=f"{FILE}.*{says}") as caught:
        list(KvRetrieval(origin="file").make_samples(layouts.setting(tmp_path)))
    assert "\n" not in str(caught.value)


def test_the_real_file(data_dir):
    found = list(KvRetrieval(origin="file").make_samples(Setting(layouts.tokens, Data(data_dir))))
    assert len(found) == 100
    for sample in found:
        assert len(pairs(sample)) == 75
        assert pairs(sample)[key(sample)] == sample.gold[0]
