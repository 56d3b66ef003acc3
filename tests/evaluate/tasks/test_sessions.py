"""Codes of archives: samples, and what comes of asking, correcting and forgetting, on streams that know or forget."""

from __future__ import annotations

import re

import pytest

from everlong import Blocks, Sinks
from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.folder import read_records
from everlong.evaluate.plan import Entry, Plain, Plan
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.sessions import PLACES, Sessions
from everlong.session.forgetting import Forgotten
from tests.evaluate.fakes import EchoSession, EchoStream
from tests.models.tiny import byte_tokenizer

CODE = r"code of the {} archive is (?:now )?(\d+)"


@pytest.fixture(scope="module")
def setting():
    return Setting(byte_tokenizer(), Data(None))


def knows(text, question):
    """The newest code of the place, as it was read."""
    place = re.search(r"code of the (\w+) archive", question)[1]
    found = re.findall(CODE.format(place), text)
    return f" {found[-1]}" if found else " unknown"


def outcomes(task, setting, answer, session=None):
    (sample,) = task.make_samples(setting)
    stream = EchoStream(answer, session=session)
    return sample, list(task.run(stream, sample)), stream


def by_group(found):
    return {group: [o for o in found if o.group == group] for group in ("asked", "corrected", "forgotten", "kept")}


def test_samples_fill_their_length_and_depend_on_nothing_else(setting):
    task = Sessions(lengths=(1500, 3000), samples=2)
    samples = list(task.make_samples(setting))
    assert [s.id for s in samples] == ["1500-0", "1500-1", "3000-0", "3000-1"]
    for sample in samples:
        total = setting.count(sample.context) + setting.count(sample.question)
        assert 0.9 * sample.length <= total <= sample.length
    assert list(task.make_samples(setting)) == samples
    assert list(Sessions(lengths=(3000,)).make_samples(setting)) == [samples[2]]
    other = list(task.make_samples(Setting(setting.tokenizer, setting.data, seed=1)))
    assert other[0].context != samples[0].context
    assert len({s.context for s in samples}) == 4


def test_every_source_holds_its_own_code_and_the_newer_one_changes_it(setting):
    for sample in Sessions(lengths=(4000,), documents=6, samples=5).make_samples(setting):
        opening, *documents, newer = [(p.source, sample.context[p.start : p.end]) for p in sample.facts["parts"]]
        corrected, forgotten = sample.facts["changed"]
        facts = sample.facts["facts"]
        assert opening[0] == "opening"
        assert [f.source for f in facts] == [name for name, _ in documents]
        for fact, (_, text) in zip(facts, documents, strict=True):
            assert knows(text, fact.question).strip() == (fact.before or fact.code)
        assert corrected != forgotten
        assert 1 <= forgotten <= 2
        assert knows(newer[1], facts[corrected].question).strip() == facts[corrected].code
        assert newer[0].startswith(facts[corrected].source)


def test_who_knows_and_forgets_scores_one_everywhere(setting):
    session = EchoSession()
    sample, found, stream = outcomes(Sessions(lengths=(2000,)), setting, knows, session)
    groups = by_group(found)
    corrected, forgotten = sample.facts["changed"]
    assert {name: len(of) for name, of in groups.items()} == {"asked": 4, "corrected": 1, "forgotten": 1, "kept": 3}
    assert {o.score for o in found} == {1.0}
    assert all(o.scores == {"citation": 1.0} for o in found if o.group in ("asked", "kept"))
    gone = groups["forgotten"][0]
    assert (gone.scores, gone.facts["known_before"]) == ({"uncited": 1.0}, True)
    assert session.forgotten == [gone.facts["place"]] == [sample.facts["facts"][forgotten].source]
    assert groups["corrected"][0].gold == [sample.facts["facts"][corrected].code]
    assert len({o.part for o in found}) == len(found)
    assert stream.forks == len(found)
    assert stream.text.startswith("These are the files")


def test_who_says_nothing_scores_nothing_and_forgetting_is_not_judged(setting):
    _, found, _ = outcomes(Sessions(lengths=(2000,)), setting, lambda text, question: "", EchoSession())
    assert [o.score for o in found if o.group != "forgotten"] == [0.0] * 8
    assert [o.score for o in found if o.group == "forgotten"] == [None]


def test_who_does_not_forget_is_found_out(setting):
    session = EchoSession()
    session.forget = lambda source: Forgotten(9, 1, 0)
    _, found, _ = outcomes(Sessions(lengths=(2000,)), setting, knows, session)
    (gone,) = by_group(found)["forgotten"]
    assert (gone.score, gone.scores, gone.facts["forgotten_tokens"]) == (0.0, {"uncited": 0.0}, 9)


def test_who_keeps_to_the_old_code_is_not_corrected(setting):
    first: dict[str, str] = {}
    _, found, _ = outcomes(Sessions(lengths=(2000,)), setting, lambda t, q: first.setdefault(q, knows(t, q)))
    groups = by_group(found)
    assert [o.score for o in groups["asked"]] == [1.0] * 4
    assert [o.score for o in groups["corrected"]] == [0.0]


def test_a_stream_that_stores_nothing_cannot_forget(setting):
    _, found, stream = outcomes(Sessions(lengths=(2000,)), setting, knows)
    groups = by_group(found)
    assert not groups["kept"]
    assert all(not o.scores for o in found)
    (gone,) = groups["forgotten"]
    assert (gone.prediction, gone.score) == (None, None)
    assert "stores nothing" in gone.facts["note"]
    assert all(not asked.keep for asked in stream.asked)


def test_real_sessions_cite_and_forget(tiny, tmp_path):
    blocks = Blocks(sinks=2, window=20, block=8, top_k=2, exec_chunk=16, pool=8, recall="layer")
    task = Sessions(lengths=(1500,), documents=3)
    methods = (Plain(), Sinks(sinks=2, window=20), blocks)
    rows = evaluate(Plan((Entry(task, methods),), chunk=16), tiny, tmp_path)
    records = read_records(tmp_path)
    assert {r["status"] for r in records} == {"ok"}
    assert [r["method"] for r in records if r["group"] == "kept"] == ["blocks"] * 2
    (gone,) = [r for r in records if r["group"] == "forgotten" and r["method"] == "blocks"]
    assert gone["facts"]["forgotten_tokens"] > 200
    assert gone["scores"] == {"uncited": 1.0}
    assert gone["report"]["dropped_tokens"] > 200
    cited = {c["source"] for r in records for c in r["facts"].get("citations", ())}
    assert cited <= {f"{place} archive{end}" for place in PLACES for end in ("", ", newer file")} | {"opening"}
    assert cited
    assert {row["group"] for row in rows} == {"asked", "corrected", "forgotten", "kept"}


def test_what_is_still_in_the_window_cannot_be_forgotten(tiny, tmp_path):
    blocks = Blocks(sinks=2, window=120, block=8, top_k=2, exec_chunk=16, pool=8)
    evaluate(Plan((Entry(Sessions(lengths=(1100,), documents=4), (blocks,)),), chunk=16), tiny, tmp_path / "ok")
    assert {r["status"] for r in read_records(tmp_path / "ok")} == {"ok"}
    wide = Blocks(sinks=900, window=20, block=8, top_k=2, exec_chunk=16, pool=8)
    task = Sessions(lengths=(1100,), documents=4)
    evaluate(Plan((Entry(task, (wide,)),), chunk=16), tiny, tmp_path / "wide")
    last = read_records(tmp_path / "wide")[-1]
    assert (last["status"], last["score"]) == ("cannot", None)
    assert "can be forgotten" in last["note"]


def test_bad_options(setting):
    for options, words in [
        ({"documents": 2}, r"documents=2: expected 3\.\.24"),
        ({"documents": 25}, "documents=25"),
        ({"samples": 0}, "samples=0"),
        ({"lengths": ()}, "lengths="),
        ({"filler": "gulls"}, "filler=gulls: does not exist"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Sessions(**options)
    with pytest.raises(ConfigError, match="lengths=500: too few tokens for 4 documents"):
        list(Sessions(lengths=(500,)).make_samples(setting))
    with pytest.raises(InputError, match="--data: missing"):
        list(Sessions(filler="books").make_samples(setting))
    assert len(set(PLACES)) == len(PLACES)


def test_filler_of_real_books(data_dir):
    setting = Setting(byte_tokenizer(), Data(data_dir))
    (sample,) = Sessions(lengths=(4000,), filler="books").make_samples(setting)
    assert 0.8 * 4000 <= setting.count(sample.context) <= 4000
