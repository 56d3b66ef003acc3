"""Answers: those of the plain model, ended where they should, and in agreement with what the session holds."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from everlong import Dense, Recompute, Session, Sinks, Window
from everlong.errors import CapabilityError, ConfigError, InputError, SessionError
from everlong.models.load import Loaded

from .conftest import TEXT, byte_level, interrupt

METHODS = [Dense(), Window(window=24), Sinks(sinks=4, window=20)]
STREAM = [(7 * i * i + 3 * i) % 400 for i in range(20)]


@pytest.fixture
def model(tiny):
    return tiny.model


def test_generating_equals_transformers_greedy(model):
    expected = model.generate(
        torch.tensor([STREAM[:10]]), past_key_values=DynamicCache(), max_new_tokens=12, do_sample=False
    )[0, 10:]
    with Session(model, Dense()) as session:
        answer = session.generate(STREAM[:10], max_new_tokens=12)
        assert answer.token_ids == expected.tolist()
        assert answer.finish == "length"
        assert answer.seconds_per_token > 0
        assert session.seen_tokens == 22


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_afterwards_the_session_holds_prompt_and_answer(tiny, method):
    with Session(tiny, method) as session, Session(tiny, method) as other:
        answer = session.generate(TEXT, max_new_tokens=9)
        other.feed(TEXT)
        other.feed(answer.token_ids)
        assert session.seen_tokens == other.seen_tokens
        assert torch.allclose(session.prediction, other.prediction, atol=1e-4)
        more = session.generate(None, max_new_tokens=5)
        assert more.token_ids == other.generate(max_new_tokens=5).token_ids


def test_an_end_token_ends_the_answer_and_is_not_read(tiny):
    with Session(tiny, Dense()) as session:
        session.feed(STREAM[:20])
        free = session.fork().generate(max_new_tokens=30, temperature=1.0, seed=3).token_ids
        end = free[-1]
        tiny.model.generation_config.eos_token_id = [398, end]
        answer = session.generate(max_new_tokens=30, temperature=1.0, seed=3)
        assert answer.token_ids == free[: free.index(end)]
        assert answer.finish == "end"
        assert session.seen_tokens == 20 + len(answer.token_ids)


def test_seeds_settle_the_tokens(tiny):
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        session.feed(TEXT)
        one, same, other = (
            session.fork().generate(max_new_tokens=30, temperature=1.0, seed=s).token_ids for s in (1, 1, 2)
        )
        assert one == same != other
        torch.manual_seed(5)
        first = session.fork().generate(max_new_tokens=30, temperature=1.0).token_ids
        torch.manual_seed(5)
        assert session.fork().generate(max_new_tokens=30, temperature=1.0).token_ids == first


def test_generating_needs_something_to_go_on_from(tiny):
    with Session(Loaded(tiny.model, byte_level(begin=True), "x"), Dense()) as session:
        for prompt in (None, "", []):
            with pytest.raises(InputError, match="the session is empty and there is no prompt"):
                session.generate(prompt)


def test_wrong_sampling_is_refused_before_the_prompt_is_read(tiny):
    with Session(tiny, Dense()) as session:
        with pytest.raises(ConfigError, match="temperature=-1"):
            session.generate("hello", temperature=-1)
        assert session.seen_tokens == 0


def test_recompute_can_only_score(tiny):
    with Session(tiny, Recompute(window=8)) as session:
        with pytest.raises(CapabilityError, match=r"recompute\(window=8\) can only score; use everlong.Sinks"):
            session.generate("hello")
        assert session.seen_tokens == 0


def test_the_pieces_of_a_stream_are_the_text(tiny):
    with Session(tiny, Dense()) as session:
        session.feed(TEXT)
        twin = session.fork()
        answer = session.stream(max_new_tokens=40, temperature=1.0, seed=0)
        pieces = list(answer)
        assert "".join(pieces) == answer.result.text
        assert answer.result.text == tiny.tokenizer.decode(answer.result.token_ids, skip_special_tokens=True)
        assert answer.result.token_ids == twin.generate(max_new_tokens=40, temperature=1.0, seed=0).token_ids
        assert all(pieces)


def test_a_stop_string_cuts_the_text_and_stays_read(tiny):
    with Session(tiny, Dense()) as session:
        session.feed(TEXT)
        free = session.fork().generate(max_new_tokens=60, temperature=1.0, seed=0).text
        stop = free[20:24]
        answer = session.generate(max_new_tokens=60, temperature=1.0, seed=0, stop=stop)
        assert answer.finish == "stop"
        assert answer.text == free[: free.index(stop)]
        read = tiny.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        assert stop in read
        assert session.recent.ids()[-len(answer.token_ids) :].tolist() == answer.token_ids


def test_leaving_a_stream_early_keeps_result_and_session_in_agreement(tiny):
    with Session(tiny, Dense()) as session:
        start = session.feed(TEXT)
        answer = session.stream(max_new_tokens=60, temperature=1.0, seed=0, stop=("never",))
        shown = [next(answer) for _ in range(5)]
        answer.close()
        result = answer.result
        assert result.finish == "closed"
        assert result.text.startswith("".join(shown))
        assert result.text == tiny.tokenizer.decode(result.token_ids, skip_special_tokens=True)
        assert session.seen_tokens == start + len(result.token_ids)
        assert list(answer) == []


def test_reading_in_the_middle_of_an_answer_is_an_error(tiny):
    with Session(tiny, Dense()) as session:
        answer = session.stream("a", max_new_tokens=20)
        next(answer)
        session.feed([1])
        with pytest.raises(SessionError, match="read something else while it answered"):
            list(answer)


def test_the_repetition_penalty_looks_at_the_prompt_too(model):
    with Session(model, Dense()) as session:
        session.feed(list(range(399)))
        assert session.generate(max_new_tokens=1, repetition_penalty=1e9).token_ids == [399]


def test_an_interrupt_in_an_answer_keeps_result_and_session_in_agreement(tiny):
    with Session(tiny, Dense()) as session:
        session.feed(TEXT)
        with interrupt() as lines:
            session.fork().generate(max_new_tokens=4)
        for at in range(5, lines[0], 53):
            fork = session.fork()
            answer = fork.stream(max_new_tokens=6, temperature=1.0, seed=0)
            try:
                with interrupt(at):
                    list(answer)
            except KeyboardInterrupt:
                pass
            assert fork.seen_tokens == session.seen_tokens + len(answer.result.token_ids)
            fork.close()


def test_a_prediction_lost_by_an_interrupt_is_missed_but_not_wrong(model):
    with Session(model, Dense()) as session:
        session.feed([1, 2])
        session.last = None
        with pytest.raises(InputError, match="lost by an interrupt"):
            session.generate()
        assert session.score([3]).isnan().all()
        assert session.generate(max_new_tokens=2).token_ids
