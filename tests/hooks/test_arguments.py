"""What a caller gives beside tokens: padding and positions that a stream honours, and what it refuses by name."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers

import everlong
from everlong.errors import CapabilityError
from tests.families.configs import FAMILIES
from tests.families.models import build, tokens

IDS = tokens(40, batch=2)
PADS = (11, 0)
METHODS = [
    everlong.Sinks(sinks=4, window=12),
    everlong.Window(window=9),
    everlong.Dense(),
    everlong.Blocks(sinks=2, window=8, block=4, top_k=2, exec_chunk=4, recall="layer"),
    everlong.Infini(segment=8),
]


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(vocab_size=101, max_position_embeddings=128, initializer_range=0.3)


@pytest.fixture
def cache(model):
    with everlong.attach(model, everlong.Sinks(sinks=2, window=30)) as handle:
        yield handle.new_cache()


def read(model, cache, ids, cut, **more):
    """Logits of `ids` read in pieces, the last of a length of its own."""
    ends = [*range(0, ids.shape[1], cut), ids.shape[1]]
    with torch.no_grad():
        steps = []
        for a, b in itertools.pairwise(ends):
            given = {name: x[..., a:b] if name == "position_ids" else x[:, :b] for name, x in more.items()}
            steps.append(model(input_ids=ids[:, a:b], past_key_values=cache, **given).logits)
    return torch.cat(steps, 1)


def padding():
    return torch.stack([torch.arange(40) >= pad for pad in PADS]).long()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_padding_longer_than_a_chunk(model, method, cut):
    with everlong.attach(model, method) as handle:
        got = read(model, handle.new_cache(), IDS, cut, attention_mask=padding())
        for row, pad in enumerate(PADS):
            want = read(model, handle.new_cache(), IDS[row : row + 1, pad:], 40)
            torch.testing.assert_close(got[row, pad:], want[0], atol=1e-4, rtol=0)


def test_padding_that_grows_survives_a_failed_forward(model, monkeypatch):
    attention = model.model.layers[1].self_attn
    with everlong.attach(model, everlong.Sinks(sinks=4, window=12)) as handle:
        cache = handle.new_cache()
        read(model, cache, IDS[:, :4], 4, attention_mask=padding()[:, :4])
        monkeypatch.setattr(attention, "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(IDS[:, 4:8], attention_mask=padding()[:, :8], past_key_values=cache)
        assert cache.stream.pads.tolist() == [4, 0]


@pytest.mark.parametrize("cut", [7, 40])
def test_positions_that_the_stream_counts_itself_are_taken(model, cut):
    positions = (padding().cumsum(1) - 1).clamp_min(0)
    with everlong.attach(model, everlong.Sinks(sinks=4, window=12)) as handle:
        want = read(model, handle.new_cache(), IDS, cut, attention_mask=padding())
        got = read(model, handle.new_cache(), IDS, cut, attention_mask=padding(), position_ids=positions)
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    "positions",
    [torch.arange(8), torch.arange(9, 17), torch.arange(8, 16).flip(0), torch.arange(8, 24, 2), torch.arange(8, 15)],
    ids=["anew", "shifted", "backwards", "gaps", "too few"],
)
def test_other_positions_are_refused(model, cache, positions):
    read(model, cache, IDS[:, :8], 8)
    with pytest.raises(CapabilityError, match=r"position_ids: .*leave position_ids out") as error:
        model(IDS[:, 8:16], past_key_values=cache, position_ids=positions[None])
    assert "\n" not in str(error.value)
    assert cache.stream.seen_tokens == 8


def test_padding_counted_in_positions_is_refused(model, cache):
    with pytest.raises(CapabilityError, match="position_ids: got 11 where 0 comes next"):
        model(IDS, attention_mask=padding(), position_ids=torch.arange(40)[None], past_key_values=cache)


def hidden(seen, *places):
    mask = torch.ones(2, seen, dtype=torch.long)
    mask[:, list(places)] = 0
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (hidden(16, 3), "hidden later"),
        (hidden(16, 0, 1), "hidden later"),
        (hidden(16, 12), "left padding"),
        (hidden(16, 15), "left padding"),
        (hidden(8), r"expected \[2, 16\]"),
        (hidden(17), r"expected \[2, 16\]"),
        (hidden(16)[:, None, None].bool(), "2-D"),
        ({"full_attention": hidden(16, 2)[:, None, None].bool()}, "2-D"),
    ],
    ids=["a past token", "the first ones", "a new token", "right padding", "short", "long", "4-D", "by kind of layer"],
)
def test_other_masks_are_refused(model, cache, mask, message):
    read(model, cache, IDS[:, :8], 8)
    with pytest.raises(CapabilityError, match=f"attention_mask: .*{message}"):
        model(IDS[:, 8:16], past_key_values=cache, attention_mask=mask)
    assert cache.stream.seen_tokens == 8
    model(IDS[:, 8:16], past_key_values=cache, attention_mask=hidden(16))


def test_padding_shown_later_is_refused(model, cache):
    read(model, cache, IDS[:, :20], 20, attention_mask=padding()[:, :20])
    with pytest.raises(CapabilityError, match="attention_mask"):
        model(IDS[:, 20:], past_key_values=cache, attention_mask=torch.ones(2, 40))


def test_a_forward_without_tokens_is_refused(model, cache):
    read(model, cache, IDS[:, :8], 8)
    with pytest.raises(CapabilityError, match="input_ids: brings no new tokens"):
        model.generate(IDS[:, 8:12], past_key_values=cache, max_new_tokens=1, pad_token_id=0)


@pytest.mark.parametrize("how", ["argument", "config"])
def test_attention_weights_are_refused(model, cache, how):
    if how == "config":
        model.set_attn_implementation("eager")
        model.config.output_attentions = True
    asked = {"output_attentions": True} if how == "argument" else {}
    with pytest.raises(CapabilityError, match="output_attentions"):
        model(IDS, past_key_values=cache, **asked)


def image_positions(model, ids):
    """The four planes of a text with a picture of 2 x 2 patches in it, as Qwen2-VL's processor would have them."""
    kinds = torch.zeros_like(ids)
    kinds[:, 4:8] = 1
    planes, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=torch.tensor([[1, 4, 4]]))
    return planes


def test_positions_of_an_image_are_those_of_stock():
    model = build(next(f for f in FAMILIES if f.name == "qwen2_vl"))
    ids = tokens(16)
    planes = image_positions(model, ids)
    with everlong.attach(model, everlong.Sinks(sinks=2, window=30)) as handle, torch.no_grad():
        cache = handle.new_cache()
        model(ids[:, :9], position_ids=planes[..., :9], past_key_values=cache)
        with pytest.raises(CapabilityError, match="position_ids: got 9 where 7 comes next"):
            model(ids[:, 9:], position_ids=torch.arange(9, 16)[None], past_key_values=cache)
        got = model(ids[:, 9:], past_key_values=cache).logits
        want = model(ids, position_ids=planes).logits
        torch.testing.assert_close(got, want[:, 9:], atol=1e-4, rtol=0)
        with pytest.raises(CapabilityError, match="an image's begin at 0 where 14 comes next"):
            model(ids, position_ids=planes, past_key_values=cache)
        with pytest.raises(CapabilityError, match="2 rows with images"):
            model(ids.repeat(2, 1), position_ids=planes.repeat(1, 2, 1), past_key_values=handle.new_cache())
        flat = torch.arange(16).expand(3, 1, -1)
        got = model(ids, position_ids=flat, past_key_values=handle.new_cache()).logits
    torch.testing.assert_close(got, model(ids, position_ids=flat).logits, atol=1e-4, rtol=0)


def test_qwen2_vl_generates_from_padded_rows():
    model = build(next(f for f in FAMILIES if f.name == "qwen2_vl"))
    settings = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, "attention_mask": padding()}
    with everlong.attach(model, everlong.Dense()) as handle:
        got = model.generate(IDS, past_key_values=handle.new_cache(), **settings)
    assert torch.equal(got, model.generate(IDS, past_key_values=transformers.DynamicCache(), **settings))
