"""Images in a stream: plain transformers while all fits, slow references after eviction, the same however it is cut."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import everlong
from everlong.errors import CapabilityError
from tests.families.models import stream, tokens
from tests.families.reference import windowed
from tests.families.seeing import AXES, VISION, at_once, image, parts, planes_of, read, seeing, stock, video
from tests.reference import SlowImages

TEXTS = (5, 3, 40, 12, 45)
"""Images among the sinks, within the window of each other, and after the positions have begun a new frame."""
NOISE = {"Qwen3_5ForConditionalGeneration": 1e-3}
"""Its linear layers compute single tokens otherwise than many."""
PUSH = ("Qwen2VLForConditionalGeneration", "Qwen3VLForConditionalGeneration", "SmolVLMForConditionalGeneration")
SLOW = pytest.mark.slow(reason="`make test` has three of these models, one with three axes and halves, one with more")
MODELS = [pytest.param(name, marks=() if name in PUSH else SLOW) for name in VISION]
ON_AXES = [pytest.param(name, marks=() if name in PUSH[:1] else SLOW) for name in AXES]
BLOCKS = partial(everlong.Blocks, sinks=3, block=5, top_k=3, repr_topk=2, exec_chunk=16, pool=6, codec="native")


def worst(got, want):
    """Largest difference, in parts of the largest logit where that is above 1."""
    assert got.isfinite().all()
    return float((got - want).abs().max()) / max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_equals_stock_while_all_fits(name):
    model = seeing(name)
    given = parts(model)
    whole = at_once(model, given)
    want = stock(model, whole)
    joined = [at_once(model, given[:2]), given[2], at_once(model, given[3:])]
    with everlong.attach(model, everlong.Dense()) as handle:
        for pieces, cut in ((given, None), (given, 1), (given, 4), (joined, None), ([whole], None)):
            assert worst(read(model, handle.new_cache(), pieces, cut), want) <= 1e-4
    assert torch.equal(stock(model, whole), want), "detached, the model is not what it was"


@pytest.mark.parametrize("name", ON_AXES)
@pytest.mark.parametrize("sizes", [(3, 20), (0, 12), (9, 30)])
def test_sinks_equal_the_slow_reference_after_eviction(name, sizes):
    model = seeing(name)
    given = parts(model, TEXTS)
    whole = at_once(model, given)
    planes = planes_of(model, whole)
    sinks, window = sizes
    with everlong.attach(model, everlong.Sinks(sinks=sinks, window=window)) as handle:
        assert handle.plan.axes_together
        want = windowed(model, handle.plan, whole.ids, sinks, window, planes, **whole.extra)
        for cut in (None, 1, 7):
            cache = handle.new_cache()
            assert worst(read(model, cache, given, cut), want) <= NOISE.get(name, 1e-4)
            assert len(cache.stream.segments) <= 2
            assert cache.stream.segments[-1].base > 0


@pytest.mark.parametrize("positions", ["ordered", "far", "true"])
@pytest.mark.parametrize("digest", ["mean", "bounds"])
def test_blocks_equal_the_slow_reference(positions, digest):
    """Images in sinks, blocks and pending tokens; a text at the end is read as an answer."""
    model = seeing("Qwen2VLForConditionalGeneration")
    given = parts(model, TEXTS)
    whole = at_once(model, given)
    method = BLOCKS(window=12, positions=positions, digest=digest, choose_every=1)
    base = model.base_model
    with torch.no_grad():
        seen = base.get_image_features(whole.extra["pixel_values"], whole.extra["image_grid_thw"])
        embeddings = model.get_input_embeddings()(whole.ids[0])
        embeddings[whole.ids[0] == model.config.image_token_id] = torch.cat(tuple(seen.pooler_output))
    slow = SlowImages(model, method, embeddings, planes_of(model, whole))
    answer = given[-1].ids.shape[1]
    count = whole.ids.shape[1]
    want = [slow.read(torch.arange(count - answer))]
    slow.answering = True
    want.append(slow.read(torch.arange(count - answer, count)))
    with everlong.attach(model, method) as handle:
        for cut in (None, 1, 7):
            cache = handle.new_cache(16)
            got = [read(model, cache, given[:-1], cut)]
            cache.blocks.answering = True
            got.append(read(model, cache, given[-1:], cut))
            torch.testing.assert_close(torch.cat(got, 1)[0].double(), torch.cat(want), atol=2e-4, rtol=0)
        memory = cache.blocks.rows[0]
        for layer, part in memory.layers.items():
            assert part.now.chosen.tolist() == [slow.chosen[layer][-1][1]]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_the_same_for_any_cut(name):
    model = seeing(name)
    given = parts(model, TEXTS)
    with everlong.attach(model, BLOCKS(window=24)) as handle:
        want = read(model, handle.new_cache(16), given, 50)
        for cut in (1, 7):
            assert worst(read(model, handle.new_cache(16), given, cut), want) <= NOISE.get(name, 1e-4)


@pytest.mark.parametrize("method", [everlong.Sinks(sinks=3, window=20), BLOCKS(window=12)])
def test_a_fork_and_a_saved_stream_go_on(method, tmp_path):
    model = seeing("Qwen2VLForConditionalGeneration")
    given = parts(model, TEXTS)
    with everlong.attach(model, method) as handle:
        cache = handle.new_cache(16)
        read(model, cache, given[:4], 7)
        fork = cache.fork()
        want = read(model, cache, given[4:], 7)
        assert torch.equal(read(model, fork, given[4:], 7), want)
    with everlong.Session((model, None), method, chunk=16) as session:
        read(model, session.runner._cache, given[:4], 7)
        tensors, meta = session.runner.state()
        other = session.runner.fresh()
        other.load_state(tensors, meta)
        assert worst(read(model, other._cache, given[4:], 7), want) <= 1e-5
        other.close()


@pytest.mark.parametrize("seconds", [1.0, 9.0])
def test_a_video_is_read_as_stock_reads_it(seconds):
    """Times may pass the positions of the text behind them."""
    model = seeing("Qwen2_5_VLForConditionalGeneration")
    clip = video(model)
    clip.extra["second_per_grid_ts"] = torch.tensor([seconds])
    given = [*parts(model)[:3], clip, *parts(model)[4:]]
    want = stock(model, at_once(model, given))
    with everlong.attach(model, everlong.Dense()) as handle:
        # Text that follows a video at once is read with it: alone it would begin behind all of its times.
        joined = [*given[:3], at_once(model, given[3:5]), *given[5:]]
        for cut in (None, 4):
            assert worst(read(model, handle.new_cache(), joined, cut), want) <= 1e-4


def test_streams_do_not_mix():
    """The model notes on itself how far an image has moved positions: each stream has its own."""
    model = seeing("Qwen2VLForConditionalGeneration")
    given = parts(model)
    other = tokens(30) % 90 + 3
    with everlong.attach(model, everlong.Dense()) as handle, torch.no_grad():
        text = handle.new_cache()
        want = torch.cat([model(other, use_cache=False).logits])
        seeing_cache = handle.new_cache()
        got = []
        for n, part in enumerate(given):
            read(model, seeing_cache, [part])
            got.append(model(other[:, 4 * n : 4 * n + 4], past_key_values=text).logits)
        assert worst(torch.cat(got, 1), want[:, : 4 * len(given)]) <= 1e-4
        assert model.base_model.rope_deltas is None


def test_an_image_is_taken_back_or_none_of_it():
    model = seeing("Qwen2VLForConditionalGeneration")
    given = parts(model)
    with everlong.attach(model, everlong.Dense()) as handle:
        cache = handle.new_cache()
        read(model, cache, given)
        seen = cache.get_seq_length()
        with pytest.raises(CapabilityError, match="middle of an image"):
            cache.crop(8 - seen)
        assert cache.get_seq_length() == seen
        cache.crop(5 - seen)
        want = stock(model, at_once(model, given))[:, 5:]
        assert worst(read(model, cache, given[1:]), want) <= 1e-4


@pytest.mark.parametrize("name", PUSH)
def test_generate_sees_the_image(name):
    model = seeing(name)
    whole = at_once(model, parts(model)[:3])
    settings = {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(whole.ids),
    }
    want = model.generate(whole.ids, **whole.extra, **settings)
    with everlong.attach(model, everlong.Sinks(sinks=4, window=56)) as handle:
        got = model.generate(whole.ids, past_key_values=handle.new_cache(), **whole.extra, **settings)
    assert torch.equal(got, want)


def test_a_failed_image_leaves_the_stream_as_it_was():
    model = seeing("Qwen2VLForConditionalGeneration")
    given = parts(model)
    with everlong.attach(model, everlong.Dense()) as handle:
        cache = handle.new_cache()
        read(model, cache, given[:2])
        bad = image(model, 4)
        bad.extra["pixel_values"] = bad.extra["pixel_values"][:-4]
        with pytest.raises((RuntimeError, ValueError)):
            read(model, cache, [bad])
        seen = cache.get_seq_length()
        want = stock(model, at_once(model, given))[:, seen:]
        assert worst(read(model, cache, given[2:]), want) <= 1e-4


def test_what_was_not_tried_with_images_is_refused_by_name():
    model = seeing("Qwen2VLForConditionalGeneration")
    given = parts(model)
    with everlong.attach(model, everlong.Infini(segment=8)) as handle:
        cache = handle.new_cache()
        read(model, cache, given[:1])
        with pytest.raises(CapabilityError, match=r"image: infini.*never tried.*use blocks, sinks"):
            read(model, cache, given[1:])
        stream(model, handle.new_cache(), tokens(20), 7)
