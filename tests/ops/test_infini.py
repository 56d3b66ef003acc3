"""The parallel form of Infini-attention against the paper's loop, in outputs and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch

from everlong.ops.infini import InfiniState, infini_attention, infini_attention_naive
from everlong.ops.segments import aligned

H, G, D, E = 4, 2, 6, 5
SCALE = D**-0.5
KINDS = list(itertools.product(("linear", "delta"), (False, True)))


def inputs(tokens, rows=1, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = [(rows, H, tokens, D), (rows, G, tokens, D), (rows, G, tokens, E)]
    q, k, v = (torch.randn(s, generator=draw, dtype=dtype).requires_grad_() for s in shapes)
    raw_q, raw_k = (torch.randn(s, generator=draw, dtype=dtype).requires_grad_() for s in shapes[:2])
    gate = torch.rand(H, generator=draw, dtype=dtype).requires_grad_()
    return [q, k, v, raw_q, raw_k, gate]


def parallel(x, document, segment, update, xl, write=None, groups=1, form=infini_attention):
    """The attention of rows of `document` [B, T], their segments read in `groups` pieces: [B, H, T, E]."""
    q, k, v, raw_q, raw_k, gate = x
    text = aligned(document, segment)

    def place(y):
        return text.align(y.transpose(1, 2)).transpose(1, 2)

    state = InfiniState.empty(k, v, segment if xl else 0)
    write = None if write is None else text.align(write)
    moved = [place(y) for y in (q, k, v, raw_q, raw_k)]
    outs = []
    N = text.document.shape[1]
    for part in torch.arange(N).chunk(groups):
        a, b = int(part[0]) * segment, (int(part[-1]) + 1) * segment
        piece = type(text)(segment, None, None, text.document[:, part], text.valid[:, a:b], text.position[:, a:b])
        out, state = form(
            *(y[:, :, a:b] for y in moved), gate, piece, SCALE, update, state, None if write is None else write[:, a:b]
        )
        outs.append(out)
    return text.back(torch.cat(outs, 2).transpose(1, 2)).transpose(1, 2)


def naive(x, segment, update, xl, write=None):
    """The same for one row that is one document: [1, H, T, E]."""
    q, k, v, raw_q, raw_k, gate = x
    row = None if write is None else write[0]
    return infini_attention_naive(q[0], k[0], v[0], raw_q[0], raw_k[0], gate, segment, SCALE, update, xl, row)[None]


def one(tokens, rows=1):
    return torch.zeros(rows, tokens, dtype=torch.long)


@pytest.mark.parametrize(("update", "xl"), KINDS)
@pytest.mark.parametrize("tokens", [3, 8, 41])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_loop_in_outputs_and_gradients(update, xl, tokens, weighted):
    x = inputs(tokens)
    write = torch.rand(1, tokens, dtype=torch.float64) * 3 + 0.1 if weighted else None
    got = parallel(x, one(tokens), 4, update, xl, write)
    expected = naive(x, 4, update, xl, write)
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=0)
    used = x if tokens > 8 else x[:3]
    for mine, theirs in zip(
        torch.autograd.grad(got.square().sum(), used), torch.autograd.grad(expected.square().sum(), used), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("update", "xl"), KINDS)
def test_float32_stays_within_1e_6_of_float64(update, xl):
    x = inputs(64)
    small = [y.detach().float().requires_grad_() for y in x]
    got, expected = (parallel(y, one(64), 8, update, xl) for y in (small, x))
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(got.sum(), small), torch.autograd.grad(expected.sum(), x), strict=True):
        error = (mine.double() - theirs).norm() / theirs.norm()
        assert error < 1e-6


@pytest.mark.parametrize(("update", "xl"), KINDS)
@pytest.mark.parametrize("groups", [2, 3, 5])
def test_groups_of_segments_give_the_same(update, xl, groups):
    x = inputs(40)
    got, expected = (parallel(x, one(40), 4, update, xl, groups=n) for n in (groups, 1))
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize(("update", "xl"), KINDS)
@pytest.mark.parametrize("groups", [1, 3])
def test_documents_in_a_row_are_read_as_if_alone(update, xl, groups):
    lengths = [13, 3, 18]
    x = inputs(sum(lengths))
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    got = parallel(x, document, 4, update, xl, groups=groups).split(lengths, 2)
    for n, start in enumerate(itertools.accumulate([0, *lengths[:-1]])):
        alone = [y[:, :, start : start + lengths[n]] for y in x[:5]] + x[5:]
        torch.testing.assert_close(got[n], naive(alone, 4, update, xl), atol=1e-11, rtol=0)


@pytest.mark.parametrize(("update", "xl"), KINDS)
def test_rows_of_unequal_length_are_read_as_if_alone(update, xl):
    x = inputs(30, rows=3)
    document = one(30, 3)
    document[0, 17:] = document[2, :11] = -1  # padding on the right, none, and on the left
    got = parallel(x, document, 4, update, xl)
    for n, part in enumerate((slice(0, 17), slice(0, 30), slice(11, 30))):
        alone = [y[n : n + 1, :, part] for y in x[:5]] + x[5:]
        torch.testing.assert_close(got[n : n + 1, :, part], naive(alone, 4, update, xl), atol=1e-11, rtol=0)


@pytest.mark.parametrize(("update", "xl"), KINDS)
def test_a_token_of_segment_1_gets_a_gradient_from_a_loss_in_segment_4(update, xl):
    x = inputs(16)
    loss = parallel(x, one(16), 4, update, xl)[:, :, 12:].square().sum()
    keys, values = torch.autograd.grad(loss, [x[4], x[2]])
    assert (keys[:, :, :4].abs() > 1e-9).all()
    assert (values[:, :, :4].abs() > 1e-9).all()


def test_a_repeated_segment_is_a_weight_in_the_linear_memory():
    """Five times the same segment leave the same memory as one that is written with weight 5."""
    x = inputs(4 * 7)
    for y in x[:5]:
        y.data[:, :, 8:24] = y.data[:, :, 4:8].repeat(1, 1, 4, 1)
    long = parallel(x, one(28), 4, "linear", False)[:, :, 24:]
    short = [torch.cat([y[:, :, :8], y[:, :, 24:]], 2) for y in x[:5]] + x[5:]
    write = torch.ones(1, 12, dtype=torch.float64)
    write[:, 4:8] = 5
    got = parallel(short, one(12), 4, "linear", False, write)[:, :, 8:]
    torch.testing.assert_close(got, long, atol=1e-12, rtol=0)
