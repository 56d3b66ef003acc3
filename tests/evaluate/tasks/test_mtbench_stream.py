"""One endless chat: the form of its messages, what is scored, and that nothing is left out."""

from __future__ import annotations

import json
import math

import pytest

from everlong import Blocks, Sinks
from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.folder import read_records
from everlong.evaluate.plan import Entry, Plain, Plan
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.mtbench_stream import MtbenchStream, TalkForm, distinct, form
from tests.evaluate.fakes import EchoStream
from tests.models.tiny import byte_tokenizer

ROWS = [
    {"question_id": 81, "category": "writing", "turns": ["Name a tide.", "Name it again, louder."]},
    {"question_id": 82, "category": "maths", "turns": ["What is one and one?", "And two?"]},
]
VICUNA = TalkForm("USER: ", "\n\nUSER: ", "\n\nASSISTANT:", ("\n\nUSER:", "\nUSER:"))


def written(folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Setting(byte_tokenizer(), Data(folder))


def test_the_form_is_the_tokenizers_own():
    assert form(byte_tokenizer()) == TalkForm(
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert form(byte_tokenizer(template=None)) == VICUNA
    assert form(byte_tokenizer(template="{{ messages | length }}")) == VICUNA


def test_all_turns_are_read_in_order_and_answers_stay(tmp_path):
    (sample,) = MtbenchStream().make_samples(written(tmp_path))
    task = MtbenchStream(max_new_tokens=5)
    stream = EchoStream(lambda text, question: f"Answer {text.count('Answer') + 1}.")
    found = list(task.run(stream, sample))
    assert [o.part for o in found] == ["81.1", "81.2", "82.1", "82.2"]
    assert [o.facts["category"] for o in found] == ["writing", "writing", "maths", "maths"]
    assert [o.prediction for o in found] == [f"Answer {n}." for n in (1, 2, 3, 4)]
    expected = "".join(
        f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\nAnswer {n}.<|im_end|>\n"
        for n, message in enumerate((m for row in ROWS for m in row["turns"]), start=1)
    )
    assert stream.text == expected.removesuffix("<|im_end|>\n")
    assert all(asked.keep for asked in stream.asked)
    positions = [o.facts["position"] for o in found]
    assert positions == sorted(set(positions))


def test_scores_by_hand(tmp_path):
    task = MtbenchStream(conversations=1, max_new_tokens=9)
    (sample,) = task.make_samples(written(tmp_path))
    stream = EchoStream(lambda text, question: "so it is so it is so it is", logprob=lambda n: -math.log(4.0))
    first, second = task.run(stream, sample)
    assert (first.facts["tokens"], second.facts["tokens"]) == (3, 4)
    assert first.score == pytest.approx(0.25)
    assert first.facts["perplexity"] == pytest.approx(4)
    assert first.facts["nll_sum"] == pytest.approx(3 * math.log(4))
    assert first.scores == {"ended": 0.0, "distinct": 0.5}


def test_a_silent_stream_ends_and_repeats_nothing(tmp_path):
    (sample,) = MtbenchStream(conversations=1).make_samples(written(tmp_path))
    found = list(MtbenchStream(conversations=1).run(EchoStream(), sample))
    assert [o.scores for o in found] == [{"ended": 1.0}] * 2


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [("", 4, None), ("a b c", 4, None), ("a b c d", 4, 1.0), ("a a a a a", 4, 0.5), ("a b a b a", 2, 0.5)],
)
def test_distinct_groups(text, n, share):
    assert distinct(text, n) == share


def test_only_so_many_conversations(tmp_path):
    setting = written(tmp_path)
    (sample,) = MtbenchStream(conversations=1).make_samples(setting)
    assert [turn.part for turn in sample.facts["turns"]] == ["81.1", "81.2"]
    assert list(MtbenchStream(conversations=1).make_samples(setting)) == [sample]


def test_real_streams_too_long_for_one_say_so(tiny, tmp_path):
    setting = written(tmp_path / "data")
    methods = (Plain(), Sinks(sinks=2, window=20), Blocks(sinks=2, window=20, block=8, top_k=2, exec_chunk=16, pool=8))
    task = MtbenchStream(max_new_tokens=6)
    evaluate(Plan((Entry(task, methods),), chunk=16), tiny, tmp_path / "out", setting.data)
    records = read_records(tmp_path / "out")
    by = {m: [r for r in records if r["method"] == m] for m in ("transformers", "sinks", "blocks")}
    assert [r["part"] for r in by["sinks"]] == [r["part"] for r in by["blocks"]] == ["81.1", "81.2", "82.1", "82.2"]
    assert [r["status"] for r in by["transformers"]][-1] == "too long"
    assert len(by["transformers"]) < 4 or by["transformers"][-1]["part"] == ""
    assert all(0 < r["score"] < 1 and r["new_tokens"] <= 6 for r in by["sinks"])
    assert by["transformers"][0]["score"] == pytest.approx(by["sinks"][0]["score"], rel=1e-2)


def test_bad_options_and_files(tmp_path):
    with pytest.raises(ConfigError, match="conversations=0: must be at least 1"):
        MtbenchStream(conversations=0)
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        MtbenchStream(max_new_tokens=0)
    with pytest.raises(InputError, match="lacks the field 'turns'"):
        list(MtbenchStream().make_samples(written(tmp_path, [{"question_id": 1, "category": "x"}])))
    with pytest.raises(InputError, match="question 1 has turns that are not texts"):
        list(MtbenchStream().make_samples(written(tmp_path, [{"question_id": 1, "category": "x", "turns": "one"}])))
    with pytest.raises(InputError, match=r"has no mt_bench/question\*\.jsonl"):
        list(MtbenchStream().make_samples(Setting(byte_tokenizer(), Data(tmp_path.parent))))


def test_the_real_file(data_dir):
    (sample,) = MtbenchStream().make_samples(Setting(byte_tokenizer(), Data(data_dir)))
    assert len(sample.facts["turns"]) == 160
