"""Images that a session is fed: read as stock does, sources of their own, kept and cited; and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import everlong
from everlong.errors import BudgetError, CapabilityError, ConfigError, InputError, SessionError
from everlong.library.library import Library
from everlong.methods.blocks.room import BlockBudget
from everlong.session.rebuild import reread
from everlong.session.session import _loaded
from everlong.text.images import DIGEST, ImageReader
from everlong.text.transcript import TokenRange
from tests.session.seeing import END, START, picture, seeing_model

TEXT = "On the first page there is a picture of the harbour. "
BEHIND = " Behind it the text goes on for a while, about ships and their captains, until nobody listens. "
BLOCKS = everlong.Blocks(sinks=4, window=32, block=8, top_k=6, repr_topk=2, exec_chunk=16, pool=6, recall="layer")


@pytest.fixture(scope="module")
def pair():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return seeing_model()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "harbour.png"
    picture().save(path)
    return path


def test_an_image_is_read_as_stock_reads_it(pair, file):
    model, processor = pair
    whole = processor(
        text=[TEXT + START + processor.image_token + END + BEHIND], images=[picture()], return_tensors="pt"
    )
    with torch.no_grad():
        want = model(**whole).logits[0, -1]
    with everlong.Session(pair, everlong.Sinks(sinks=4, window=400)) as session:
        count = session.feed([TEXT, file, BEHIND])
        assert count == whole["input_ids"].shape[1] == session.seen_tokens
        torch.testing.assert_close(session.prediction, want, atol=1e-4, rtol=0)
        for one in (file, picture()):
            other = session.fork()
            other.reset()
            assert other.feed(TEXT) + other.feed(one) + other.feed(BEHIND) == count
            torch.testing.assert_close(other.prediction, want, atol=1e-4, rtol=0)
            other.close()


def test_an_image_is_a_source_of_its_own(pair, file):
    with everlong.Session(pair, BLOCKS) as session:
        session.feed([TEXT, file, BEHIND, picture((0, 0, 200))], source="report")
        found = session.transcript.sources
        assert [s.name for s in found] == ["report", str(file), "report", "image 2"]
        images = [s for s in found if s.digest.startswith(DIGEST)]
        assert [s.name for s in images] == [str(file), "image 2"]
        assert all(s.done for s in images)
        assert images[0].digest != images[1].digest
        first, end = session.transcript.bounds(images[0])
        assert end - first == 8
        passages = session.transcript.passages(0, session.seen_tokens)
        assert [p.text for p in passages] == [TEXT, "", BEHIND, ""]


def test_a_block_of_an_image_is_cited_by_its_name(pair, file):
    big = picture(size=(64, 48))
    big.save(file)
    with everlong.Session(pair, replace(BLOCKS, top_k=40)) as session:
        session.feed([TEXT, file, BEHIND * 2])
        session.generate("What was in the picture?", max_new_tokens=4)
        cited = session.citations(top=100)
        named = [c for c in cited if c.source == str(file)]
        assert named
        assert named[0].name == "harbour.png"
        assert (named[0].text, named[0].sentence) == ("", "[image]")
        assert sum(c.mass for c in cited) == pytest.approx(1)


@pytest.mark.parametrize("method", [BLOCKS, everlong.Sinks(sinks=4, window=60)])
def test_a_kept_session_goes_on_behind_an_image(pair, file, method, tmp_path):
    with everlong.Session(pair, method, store=tmp_path / "store", name="seen") as session:
        session.feed([TEXT, file])
        session.checkpoint()
        twin = session.fork()
    with everlong.Session.open(tmp_path / "store", "seen", pair) as opened:
        assert [s.name for s in opened.transcript.sources] == ["text", str(file)]
        opened.feed(BEHIND)
        twin.feed(BEHIND)
        torch.testing.assert_close(opened.prediction, twin.prediction, atol=1e-5, rtol=0)
    twin.close()


def test_a_session_with_an_image_is_not_read_again(pair, file, tmp_path):
    store = tmp_path / "store"
    with everlong.Session(pair, BLOCKS, store=store, name="seen") as session:
        session.feed([TEXT, file, BEHIND])
        image = next(s for s in session.transcript.sources if s.digest.startswith(DIGEST))
        span = session.transcript.bounds(image)
    loaded = _loaded(pair)
    with pytest.raises(SessionError, match=r"harbour.png' is an image, whose points are not kept"):
        list(reread(Library(store), "seen", loaded, 512, [TokenRange(0, 5)]))
    assert Library(store).find("seen").tokens == Library(store).entry("seen").tokens
    list(reread(Library(store), "seen", loaded, 512, [TokenRange(*span)]))
    with everlong.Session.open(store, "seen", pair) as opened:
        assert not any(s.digest.startswith(DIGEST) for s in opened.transcript.sources)


def test_a_saved_session_goes_on_behind_an_image(pair, file, tmp_path):
    with everlong.Session(pair, BLOCKS) as session:
        session.feed([TEXT, file])
        session.save(tmp_path / "one.session")
        with everlong.Session.load(tmp_path / "one.session", pair) as other:
            other.feed(BEHIND)
            session.feed(BEHIND)
            torch.testing.assert_close(other.prediction, session.prediction, atol=1e-5, rtol=0)


def test_a_question_sees_what_blocks_have_of_an_image(pair, file):
    method = everlong.Blocks(sinks=4, window=32, block=8, top_k=6, exec_chunk=16, recall="question")
    with everlong.Session(pair, method) as session:
        session.feed([TEXT, file, BEHIND])
        reply = session.ask("What was in the picture of the harbour?", max_new_tokens=3)
        list(reply)
        assert reply.recall.way == "blocks"


def test_a_loaded_folder_has_its_processor(pair, file, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = everlong.load(tmp_path / "model", dtype="float32")
    assert type(loaded.processor) is type(processor)
    with everlong.Session(loaded, BLOCKS) as session, everlong.Session(pair, BLOCKS) as other:
        session.feed([TEXT, file])
        other.feed([TEXT, file])
        torch.testing.assert_close(session.prediction, other.prediction, atol=1e-5, rtol=0)
    for name in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    with everlong.Session(everlong.load(tmp_path / "model", dtype="float32"), BLOCKS) as session:
        session.feed(TEXT)
        with pytest.raises(CapabilityError, match="no processor for images; load a model that takes images"):
            session.feed([TEXT, file])


def test_what_cannot_be_read_is_refused_before_anything_is(pair, file, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with everlong.Session(pair, BLOCKS) as session:
        session.feed(TEXT)
        seen = session.seen_tokens
        for wrong, message in (
            (broken, "no image that Pillow reads; give a PNG"),
            (Path(tmp_path / "absent.png"), "No such file"),
            (3, "int: expected texts and images"),
        ):
            with pytest.raises(InputError, match=message):
                session.feed([BEHIND, file, wrong])
        assert session.seen_tokens == seen
    with everlong.Session(pair, everlong.Recompute(window=64)) as session:
        with pytest.raises(CapabilityError, match="recompute reads ids again, which hold no image"):
            session.feed([TEXT, file])
        assert session.seen_tokens == 0
    ids_only = everlong.Blocks(sinks=4, window=32, block=8, top_k=6, recall="question", keep="ids")
    with everlong.Session(pair, ids_only) as session, pytest.raises(CapabilityError, match="keep=ids"):
        session.feed(file)


def test_a_failed_image_leaves_no_source(pair, file, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("the tower fell")

    with everlong.Session(pair, BLOCKS) as session:
        session.feed(TEXT)
        before = session.seen_tokens
        monkeypatch.setattr(pair[0].model.visual, "forward", fails)
        with pytest.raises(RuntimeError, match="the tower fell"):
            session.feed(file)
        monkeypatch.undo()
        assert session.seen_tokens == before
        assert [s.name for s in session.transcript.sources] == ["text"]
        session.feed(file)
        assert len(session.transcript.ids) == session.seen_tokens


def test_a_large_image_says_how_large_it_may_be(pair):
    with everlong.Session(pair, BLOCKS) as session:
        session.runner._cache.stream.plan.__dict__["frame_length"] = 20
        try:
            with pytest.raises(InputError, match=r"image: has \d+ tokens, and this session reads at most 20 at once"):
                session.feed(picture(size=(64, 64)))
        finally:
            session.runner._cache.stream.plan.__dict__["frame_length"] = 512


def test_a_processor_without_a_template_writes_its_own_word(pair):
    _, processor = pair
    template = processor.chat_template
    assert ImageReader(processor)._written == START + processor.image_token + END
    processor.chat_template = None
    try:
        assert ImageReader(processor)._written == processor.image_token
    finally:
        processor.chat_template = template


def test_an_image_is_refused_before_anything_gives_way_for_it(pair, monkeypatch):
    with pytest.raises(ConfigError, match="must be at least") as told:
        everlong.Session(pair, BLOCKS, chunk=16, host_budget=1)
    least = int(re.search(r"at least ([\d,]+) bytes", str(told.value))[1].replace(",", ""))
    with everlong.Session(pair, BLOCKS, chunk=16, host_budget=2 * least, when_full="oldest") as session:
        session.feed(BEHIND * 8)
        before = session.report()
        with monkeypatch.context() as patch:
            patch.setattr(BlockBudget, "_removable", lambda self, memory: [])
            with pytest.raises(BudgetError, match=r"no room for \d+ more"):
                session.feed(picture(size=(160, 80)))
        assert session.report() == before
        assert [s.name for s in session.transcript.sources] == ["text"]
        count = session.feed(picture(size=(160, 80)))
        after = session.report()
        assert after.seen_tokens == before.seen_tokens + count
        assert after.dropped_tokens > before.dropped_tokens
        assert after.bytes["host"] <= 2 * least
