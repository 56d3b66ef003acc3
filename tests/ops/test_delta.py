"""The products of whole segments and of open ones against the delta rule, one token after the other."""

from __future__ import annotations

import time

import pytest
import torch

from everlong.ops.delta import (
    OpenSegment,
    Writes,
    convolved,
    feature_count,
    features,
    fold_open,
    read_open,
    read_segments,
)
from tests.ops.delta_literal import conv, rule

B, H, G, D, E = 2, 4, 2, 6, 5
KINDS = [(degree, decay) for degree in (1, 2) for decay in (False, True)]


def inputs(tokens, decay, dtype=torch.float64, rows=B):
    draw = torch.Generator().manual_seed(tokens)

    def randn(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    q, k = (torch.nn.functional.normalize(randn(rows, n, tokens, D), dim=-1) for n in (H, G))
    log_a = torch.nn.functional.logsigmoid(randn(rows, G, tokens) + 2) if decay else None
    found = Writes(q, k, randn(rows, G, tokens, E), randn(rows, G, tokens).sigmoid(), log_a)
    return Writes(*(None if x is None else x.requires_grad_() for x in found))


def empty(degree, dtype=torch.float64, rows=B):
    return torch.zeros(rows, G, feature_count(D, degree), E, dtype=dtype)


def literal(tokens, degree):
    a = torch.ones_like(tokens.b) if tokens.log_a is None else tokens.log_a.exp()
    rows = [
        torch.stack([rule(tokens.q[i, h], *(x[i, h // (H // G)] for x in (*tokens[1:4], a)), degree) for h in range(H)])
        for i in range(len(tokens.q))
    ]
    return torch.stack(rows)


def gradients(out, tokens):
    return torch.autograd.grad(out.square().sum(), [x for x in tokens if x is not None])


@pytest.mark.parametrize(("degree", "decay"), KINDS)
@pytest.mark.parametrize("length", [1, 6, 12])
def test_whole_segments_equal_the_rule_in_outputs_and_gradients(degree, decay, length):
    tokens = inputs(24, decay)
    got, _ = read_segments(tokens, empty(degree), length, degree)
    expected = literal(tokens, degree)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    for mine, theirs in zip(gradients(got, tokens), gradients(expected, tokens), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("degree", "decay"), KINDS)
@pytest.mark.parametrize("cuts", [[1] * 9, [4, 5], [9], [2, 6, 1]])
def test_a_segment_read_in_parts_equals_the_rule(degree, decay, cuts):
    tokens = inputs(18, decay)
    first, M = read_segments(tokens.part(0, 9), empty(degree), 9, degree)
    found, at = [first], 9
    before = OpenSegment(*(None if x is None else x[:, :, :0] for x in (tokens.k, tokens.v, tokens.log_a)))
    for count in cuts:
        out, new = read_open(tokens.part(at, at + count), M, before, degree)
        pairs = zip(before, new, strict=True)
        before = OpenSegment(*(None if a is None else torch.cat([a, b], 2) for a, b in pairs))
        found.append(out)
        at += count
    torch.testing.assert_close(torch.cat(found, 2), literal(tokens, degree), atol=1e-12, rtol=0)
    _, expected = read_segments(tokens, empty(degree), 9, degree)
    torch.testing.assert_close(fold_open(M, before, degree), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("length", [128, 100])
def test_long_segments_are_worked_through_in_pieces(degree, length):
    tokens = inputs(200 if length == 100 else 256, True, rows=1)
    with torch.no_grad():
        got, _ = read_segments(tokens, empty(degree, rows=1), length, degree)
        torch.testing.assert_close(got, literal(tokens, degree), atol=1e-12, rtol=0)


def test_float32_stays_within_1e_6_of_float64():
    tokens = inputs(60, True)
    small = Writes(*(x.detach().float() for x in tokens))
    got, _ = read_segments(small, empty(2, torch.float32), 12, 2)
    torch.testing.assert_close(got.double(), literal(tokens, 2), atol=3e-6, rtol=0)


def test_a_restart_is_a_beginning():
    tokens = inputs(18, True)
    restart = torch.tensor([[False, True, False], [False, False, True]])
    got, _ = read_segments(tokens, empty(2), 6, 2, restart)
    for row, at in ((0, 6), (1, 12)):
        own = Writes(*(x[row : row + 1] for x in tokens))
        for a, b in ((0, at), (at, 18)):
            torch.testing.assert_close(got[row : row + 1, :, a:b], literal(own.part(a, b), 2), atol=1e-12, rtol=0)


def test_features_are_the_kernel():
    q, k = torch.randn(2, 7, 16, dtype=torch.float64)
    assert features(q, 2).shape[-1] == feature_count(16, 2) == 144
    torch.testing.assert_close((features(q, 2) * features(k, 2)).sum(-1), (q * k).sum(-1) ** 2, atol=1e-12, rtol=0)
    assert torch.equal(features(q, 1), q)


def test_a_convolution_stays_inside_its_document():
    x, taps = torch.randn(1, 13, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    document = torch.tensor([[-1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2]])
    found = convolved(x, taps, document)[0]
    for n, part in enumerate((slice(3, 8), slice(8, 10), slice(10, 13))):
        torch.testing.assert_close(found[part.start - 3 : part.stop - 3], conv(x[0, part], taps), msg=str(n))


def test_repeated_keys_do_not_diverge():
    """The rule takes each token against what the memory then says: 512 equal keys leave one value, not a power."""
    key = torch.nn.functional.normalize(torch.randn(1, 1, 1, D), dim=-1).expand(1, 1, 512, D)
    tokens = Writes(key, key, torch.ones(1, 1, 512, E), torch.full((1, 1, 512), 0.9), None)
    out, _ = read_segments(tokens, torch.zeros(1, 1, feature_count(D, 2), E), 128, 2)
    torch.testing.assert_close(out[:, :, -1], torch.ones(1, 1, E))


def test_a_token_written_w_times_is_one_with_another_strength():
    tokens = inputs(6, False)
    repeated = Writes(*(None if x is None else torch.cat([x[:, :, :3], x[:, :, 2:3], x[:, :, 2:]], 2) for x in tokens))
    b = tokens.b.clone()
    b[:, :, 2] = 1 - (1 - b[:, :, 2]) ** 3
    got = literal(tokens._replace(b=b), 2)
    torch.testing.assert_close(got[:, :, 2:], literal(repeated, 2)[:, :, 4:], atol=1e-12, rtol=0)


def test_at_least_three_times_as_fast_as_the_loop():
    tokens = Writes(*(None if x is None else x.detach().float() for x in inputs(256, False)))
    a = torch.ones_like(tokens.b)

    def loop():
        M, out = empty(2, torch.float32), []
        q, k = features(tokens.q, 2), features(tokens.k, 2)
        for t in range(256):
            key, query = k[:, :, t], q[:, :, t]
            M = a[:, :, t, None, None] * M
            news = tokens.v[:, :, t] - (key[:, :, None] @ M)[:, :, 0]
            M = M + (tokens.b[:, :, t, None] * key)[..., None] * news[:, :, None]
            out.append((query.unflatten(1, (G, -1)) @ M).flatten(1, 2))
        return torch.stack(out, 2)

    def cpu(work):
        start = time.process_time()
        out = work()
        return time.process_time() - start, out

    def parallel():
        return read_segments(tokens, empty(2, torch.float32), 128, 2)[0]

    fast, slow = (min((cpu(work) for _ in range(3)), key=lambda x: x[0]) for work in (parallel, loop))
    torch.testing.assert_close(fast[1], slow[1], atol=1e-5, rtol=0)
    assert slow[0] > 3 * fast[0], (slow[0], fast[0])
