"""Why named keys were not told apart, three faults: each is shown to be one by leaving its remedy out.

Small forms, in which nothing is trained; tests/train/test_delta_faults.py has a form that is.
"""

from __future__ import annotations

import pytest
import torch

from everlong.methods.delta import maps
from everlong.models.layout import LayerPlan, ModelLayout, Pattern
from everlong.ops.compressive import fold, recall
from everlong.ops.delta import Writes, feature_count, read_segments
from everlong.ops.segments import NONE

WIDTH, HEADS, D, LOOK_BACK = 64, 4, 16, 6
NAMES = DIGITS = 10
TRIALS = 50


def layer_maps(random_taps=False, look_back=LOOK_BACK):
    """Untrained maps of one layer."""
    layer = LayerPlan(0, 0, Pattern(), key=(HEADS, D), value=(HEADS, D))
    plan = ModelLayout((layer,), 64, None, torch.float32, heads=HEADS)
    given = {name: x[0] for name, x in maps.untrained(plan, WIDTH, look_back, True, False, 0.0).items()}
    if random_taps:
        given |= {name: torch.randn(given[name].shape) * given[name].std() for name in ("taps_q", "taps_k")}
    return maps.of_layer(plan, layer, given, torch.float32)


def read_all(mapped, hidden, b):
    """What all tokens of a text read from the memory, and what they write; each writes with strength `b`."""
    before = mapped.look_back - 1
    entering = torch.nn.functional.pad(mapped.projected(hidden), (0, 0, before, 0))
    T = hidden.shape[1]
    document = torch.cat([torch.full((before,), NONE), torch.zeros(T, dtype=torch.long)])[None]
    tokens = mapped.tokens(entering, document, hidden)
    tokens = tokens._replace(b=torch.full_like(tokens.b, b))
    empty = torch.zeros(1, HEADS, feature_count(D, 2), D)
    return read_segments(tokens, empty, T, 2)[0], tokens


def share_of_owners(random_taps):
    """How often what is read behind "the key of NAME is" is nearest to the value of the token that followed it."""
    right = 0
    mapped = layer_maps(random_taps)
    words = torch.randn(4 + NAMES + DIGITS, WIDTH)  # the, key, of, is; names; digits
    for trial in range(TRIALS):
        names, digits = torch.randperm(NAMES)[:4] + 4, torch.randperm(DIGITS)[:4] + 4 + NAMES
        told = [torch.tensor([0, 1, 2, int(n), 3, int(d)]) for n, d in zip(names, digits, strict=True)]
        asked = trial % 4
        ids = torch.cat([*told, told[asked][:5]])
        far, tokens = read_all(mapped, words[ids][None], 0.5)
        values = tokens.v[0, :, 5:24:6]
        scores = torch.cosine_similarity(
            far[0, :, None, -1].transpose(0, 1).flatten(1), values.transpose(0, 1).flatten(1)
        )
        right += int(scores.argmax()) == asked
    return right / TRIALS


def test_binding_needs_keys_made_of_what_stood_before_from_the_start_on():
    """Untrained: one in four by chance. From random taps neither keys nor queries learn, for lack of the other."""
    assert share_of_owners(random_taps=False) > 0.6
    assert share_of_owners(random_taps=True) < 0.4


def likeness_of_last_digits(look_back):
    """The product of the unit keys of the fifth digits of two pass keys that share the other four, the least."""
    mapped = layer_maps(look_back=look_back)
    words = torch.randn(12, WIDTH)  # the, key, of, is; two names; digits
    told = [[0, 1, 2, name, 3, 6, 7, 8, 9, last] for name, last in ((4, 10), (5, 11))]
    _, tokens = read_all(mapped, words[torch.tensor(told).flatten()][None], 0.5)
    return float((tokens.k[0, :, 9] * tokens.k[0, :, 19]).sum(-1).min())


def test_keys_that_begin_alike_need_the_name_within_reach_of_the_last_digit():
    """At the fifth digit the name stands six tokens back; where taps end before it, the two are one key to a layer."""
    assert likeness_of_last_digits(6) > 1 - 1e-3
    assert likeness_of_last_digits(7) < 0.99


def places():
    """Keys of 4 names x 5 places, a name match and a place match apart from each other, and a digit for each."""
    key = torch.stack([torch.cat([torch.eye(5)[n], torch.eye(5)[p]]) / 2**0.5 for n in range(4) for p in range(5)])
    return key[None, None], torch.randn(1, 1, 20, 16)


def share_read(out, v):
    """How often what is read is nearest to the right value."""
    near = torch.nn.functional.normalize(out[0, 0], dim=-1) @ torch.nn.functional.normalize(v[0, 0], dim=-1).T
    return float((near.argmax(1) == torch.arange(len(near))).float().mean())


def read_by_delta(k, v, degree, asked):
    b = torch.ones(k.shape[:3])
    k, v = torch.cat([k, asked], 2), torch.cat([v, torch.zeros(1, 1, asked.shape[2], v.shape[3])], 2)
    b = torch.cat([b, torch.zeros(asked.shape[:3])], 2)
    out, _ = read_segments(
        Writes(k, k, v, b, None), torch.zeros(1, 1, feature_count(k.shape[3], degree), 16), k.shape[2], degree
    )
    return out[:, :, -asked.shape[2] :]


@pytest.mark.parametrize("update", ["linear", "delta"])
def test_a_kernel_of_sums_has_no_and(update):
    """ELU + 1, and the plain product, add what the name says and what the place says; the square asks for both."""
    k, v = places()
    assert share_read(read_by_delta(k, v, 2, k), v) == 1
    assert share_read(read_by_delta(k, v, 1, k), v) < 0.7
    M, z = fold(4 * k, v, torch.zeros(1, 1, 10, 16), torch.zeros(1, 1, 10), update)
    assert share_read(recall(4 * k, M, z), v) < 0.7


def drowned(repeats):
    """|read - written| / |written| of a needle in the midst of filler that repeats so often: by sums, by the rule.

    The needle's key is nearly, not quite, at right angles to those of the filler, as training makes it.
    """
    filler = torch.nn.functional.normalize(torch.cat([torch.randn(25, D - 4), torch.zeros(25, 4)], 1), dim=1)
    needle = torch.nn.functional.normalize(torch.cat([0.1 * torch.randn(D - 4), torch.randn(4)]), dim=0)[None]
    said, values = torch.randn(1, 16), torch.randn(25, 16)
    k = torch.cat([filler.repeat(repeats, 1), needle, filler.repeat(repeats, 1), needle])[None, None]
    v = torch.cat([values.repeat(repeats, 1), said, values.repeat(repeats, 1), torch.zeros(1, 16)])[None, None]
    b = torch.full(k.shape[:3], 0.9)
    b[..., -1] = 0
    out, _ = read_segments(Writes(k, k, v, b, None), torch.zeros(1, 1, feature_count(D, 2), 16), k.shape[2], 2)
    weights = (k[0, 0, :-1] @ needle[0]) ** 2
    sums = weights @ v[0, 0, :-1] / weights.sum()
    return tuple(float((x - said[0]).norm() / said.norm()) for x in (sums, out[0, 0, -1]))


def test_only_the_delta_rule_gives_length():
    """350 tokens and 20,350: one needle's share of a sum falls with the length, what the rule keeps does not."""
    short, long = drowned(7), drowned(407)
    assert short[0] < 0.7
    assert long[0] > 0.9
    assert short[1] < 0.3
    assert long[1] < 0.3
