"""The plan of a step: answers first, a bounded number of tokens, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from everlong.engine.scheduler import Need, Scheduler


def test_answers_come_before_prompts_which_take_turns():
    scheduler = Scheduler(8)
    needs = [Need(0, 100), Need(1, 1, writes=True), Need(2, 3), Need(3, 1, writes=True)]
    assert scheduler.plan(needs) == {1: 1, 3: 1, 0: 6}
    assert scheduler.plan(needs) == {1: 1, 3: 1, 2: 3, 0: 3}
    assert scheduler.plan([Need(4, 0)]) == {}


ARRIVING = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40), st.booleans()), max_size=12)


@settings(deadline=None)
@given(tokens=st.integers(1, 20), arriving=ARRIVING)
def test_all_that_arrives_is_served_within_bounded_steps(tokens, arriving):
    scheduler = Scheduler(tokens)
    left = {}
    waited = {}
    for step in range(31 + sum(size for _, size, _ in arriving)):
        for key, (at, size, writes) in enumerate(arriving):
            if at == step:
                left[key] = (1 if writes else size, writes)
                waited[key] = 0
        plan = scheduler.plan(Need(key, size, writes) for key, (size, writes) in left.items())
        assert sum(plan.values()) == min(tokens, sum(size for size, _ in left.values()))
        for key, (size, writes) in list(left.items()):
            taken = plan.get(key, 0)
            assert taken <= size
            waited[key] = 0 if taken else waited[key] + 1
            assert waited[key] <= len(arriving)
            left[key] = (size - taken, writes)
            if not left[key][0]:
                del left[key]
    assert not left
