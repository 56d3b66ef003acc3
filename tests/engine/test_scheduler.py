"""The plan of a step: answers first, bounded tokens and places, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlong.engine.scheduler import Need, Scheduler
from everlong.errors import ConfigError


def test_answers_come_before_prompts_which_take_turns():
    scheduler = Scheduler(8)
    needs = [Need(0, 100), Need(1, 1, writes=True), Need(2, 3), Need(3, 1, writes=True)]
    assert scheduler.plan(needs) == {1: 1, 3: 1, 0: 6}
    assert scheduler.plan(needs) == {1: 1, 3: 1, 2: 3, 0: 3}
    assert scheduler.plan([Need(4, 0)]) == {}


def test_answers_leave_a_token_to_prompts():
    scheduler = Scheduler(3)
    answers = [Need(n, 1, writes=True) for n in range(3)]
    assert scheduler.plan([*answers, Need(3, 9)]) == {0: 1, 1: 1, 3: 1}
    assert scheduler.plan([*answers, Need(3, 9)]) == {2: 1, 0: 1, 3: 1}
    assert scheduler.plan(answers) == {1: 1, 2: 1, 0: 1}


def test_new_prompts_come_behind_those_that_wait():
    scheduler = Scheduler(4)
    assert scheduler.plan([Need(0, 4), Need(1, 4)]) == {0: 4}
    assert scheduler.plan([Need(1, 4), Need(2, 4)]) == {1: 4}


def test_who_has_read_gives_way_to_the_first_in_line_and_prompts_before_answers():
    scheduler = Scheduler(8, streams=2, turn=2)
    needs = {0: Need(0, 1, writes=True), 1: Need(1, 99), 2: Need(2, 99)}
    seen = []
    for _ in range(4):
        seen.append(scheduler.admit(needs))
        scheduler.plan(needs[key] for key in seen[-1])
    assert seen == [[0, 1], [0, 1], [0, 2], [2, 1]]
    needs[3] = Need(3, 99)
    assert scheduler.admit(needs) == [2, 1]  # neither has read in two steps, so that both stay
    scheduler.plan(needs[key] for key in [2, 1])
    assert scheduler.admit(needs) == [1, 0]
    assert scheduler.admit([0, 1]) == [1, 0]  # nobody waits any more
    assert scheduler.admit([5, 6]) == [5, 6]
    assert Scheduler(8).admit(range(99)) == list(range(99))


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"streams": 0}, {"turn": -1}])
def test_limits_below_one_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=.*at least 1"):
        Scheduler(**wrong)


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


@dataclass
class Stream:
    """A stream of the simulation: what is left of its prompt and its answer, and how it fares."""

    arrives: int
    prompt: int
    answer: int
    cancelled_after: int
    waited: int = 0
    turns: int = 0

    def need(self, key: int) -> Need:
        return Need(key, self.prompt or 1, writes=not self.prompt)

    def took(self, tokens: int) -> None:
        if self.prompt:
            self.prompt -= tokens
        else:
            self.answer -= tokens


STREAMS = st.lists(
    st.builds(Stream, st.integers(0, 30), st.integers(0, 300), st.integers(1, 40), st.integers(1, 900)), max_size=9
)


@settings(deadline=None)
@given(tokens=st.integers(1, 12), places=st.integers(1, 4), turn=st.integers(1, 5), coming=STREAMS)
def test_places_tokens_and_turns_are_kept_to_and_nobody_starves(tokens, places, turn, coming):
    scheduler = Scheduler(tokens, places, turn)
    there: dict[int, Stream] = {}
    before: list[int] = []
    longest = (len(coming) + 1) * (turn + 1) * (places + 1)
    step = 0
    while there or step <= 30:
        there |= {key: one for key, one in enumerate(coming) if one.arrives == step}
        there = {key: one for key, one in there.items() if step - one.arrives < one.cancelled_after}
        admitted = scheduler.admit(there)
        assert len(admitted) == min(places, len(there))
        for key in before:
            if key in there and key not in admitted:
                assert there[key].turns >= turn  # nobody gives way before its turn is over
                there[key].turns = 0
        needs = {key: there[key].need(key) for key in admitted}
        plan = scheduler.plan(needs.values())
        assert sum(plan.values()) == min(tokens, sum(need.tokens for need in needs.values()))
        answers = sum(need.writes for need in needs.values())
        written = sum(needs[key].writes for key in plan)
        assert all(taken <= needs[key].tokens for key, taken in plan.items())
        if tokens > 1:
            assert written >= min(answers, tokens - 1)
        for key, one in there.items():
            one.waited = 0 if key in plan else one.waited + 1
            one.turns += key in plan
            assert one.waited <= longest
        for key, taken in plan.items():
            there[key].took(taken)
        before = admitted
        there = {key: one for key, one in there.items() if one.prompt or one.answer}
        step += 1
