"""Which tokens each query sees, against the rules of docs/methods written out token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from everlong.cache.window import ENDLESS, WindowLayout
from everlong.models.layout import Pattern


def visible(t, sinks, window, sliding, chunked):
    """Indices that token t sees: native rules apply to places in the cache, min(t, S + W - 1)."""
    place = min(t, sinks + window - 1)
    seen = set()
    for j in range(t + 1):
        near = t - j < window
        if not near and j >= sinks:
            continue
        at = j if not near else place - (t - j)
        if sliding is not None and place - at >= sliding:
            continue
        if chunked is not None and at < place - place % chunked:
            continue
        seen.add(j)
    return seen


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 5),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 30)),
    st.one_of(st.none(), st.integers(1, 30)),
    st.lists(st.integers(1, 13), min_size=1, max_size=12),
    st.integers(1, 9),
)
def test_spans_say_what_the_rules_say(sinks, window, sliding, chunked, steps, room):
    if sliding is not None:
        chunked = None
    lane = WindowLayout(Pattern(sliding, chunked), sinks, window, room)
    seen = 0
    for tokens in steps:
        lane.make_room(seen, tokens)
        oldest = lane.oldest(seen)
        near, far = lane.near(seen, tokens, oldest, seen + tokens), lane.far(seen, tokens)
        for i in range(tokens):
            got = set(range(oldest + near.lo[0, i], oldest + near.hi[0, i])) | set(range(far.lo[0, i], far.hi[0, i]))
            assert got == visible(seen + i, sinks, window, sliding, chunked)
        for bound in (near.lo, near.hi, far.lo, far.hi):
            assert (np.diff(bound) >= 0).all()
        seen += tokens


@given(st.integers(0, 4), st.integers(1, 30), st.integers(1, 12), st.lists(st.integers(1, 12), max_size=60))
def test_a_step_that_fits_the_room_fits_the_arena(sinks, window, room, steps):
    lane, seen = WindowLayout(Pattern(), sinks, window, room), 0
    for tokens in (min(n, room) for n in steps):
        lane.make_room(seen, tokens)
        assert seen + tokens - lane.shift <= lane.capacity
        assert lane.shift == 0 or lane.oldest(seen) - lane.shift >= lane.fixed
        seen += tokens


def test_padding_moves_each_row():
    lane = WindowLayout(Pattern(), 2, 3, 8, pads=np.array([0, 4]))
    far = lane.far(10, 1)
    assert (far.lo[:, 0].tolist(), far.hi[:, 0].tolist()) == ([0, 4], [2, 6])
    near = lane.near(5, 1, 0, 6)
    assert (near.lo[:, 0].tolist(), near.hi[:, 0].tolist()) == ([3, 4], [6, 6])


def test_dense_keeps_all():
    lane = WindowLayout(Pattern(), 0, ENDLESS, 8)
    assert lane.capacity is None
    assert lane.oldest(10**7) == 0
    assert WindowLayout(Pattern(sliding=5), 0, ENDLESS, 8).capacity == 12


def test_native_windows_bound_what_is_kept():
    assert WindowLayout(Pattern(sliding=5), 4, 12, 8).fixed == 0
    assert WindowLayout(Pattern(sliding=14), 4, 12, 8).fixed == 4
    assert WindowLayout(Pattern(sliding=5), 4, 12, 8).kept == 5
