"""A conversation without end: the stream is what the template would render, and turns can be taken back."""

from __future__ import annotations

import pytest
import torch

from everlong import Dense, Session, Sinks
from everlong.errors import CapabilityError, ConfigError
from everlong.models.load import Loaded
from everlong.session.chat import Chat
from everlong.session.session import Session as SessionClass

from .conftest import byte_level, interrupt

SAMPLED = {"temperature": 1.0, "seed": 0, "max_new_tokens": 12}


@pytest.fixture
def session(tiny):
    with Session(tiny, Dense()) as session:
        yield session


def read(session: Session) -> str:
    return session.tokenizer.decode(session.recent.ids())


def test_the_stream_is_the_rendered_conversation(session):
    chat = Chat(session, system="Be kind.")
    said = [chat.say(text, **SAMPLED) for text in ("Hello", "Why the gulls?")]
    written = [session.tokenizer.decode(one.token_ids) for one in said]
    assert read(session) == (
        "<|turn|>system\nBe kind.<|end|>\n"
        f"<|turn|>user\nHello<|end|>\n<|turn|>assistant\n{written[0]}<|end|>\n"
        f"<|turn|>user\nWhy the gulls?<|end|>\n<|turn|>assistant\n{written[1]}<|end|>\n"
    )
    assert chat.turns == 2


def test_each_turn_reads_only_what_is_new(session):
    chat = Chat(session)
    counts = []
    for _ in range(4):
        before = session.seen_tokens
        answer = chat.say("And the tide?", **SAMPLED)
        counts.append(session.seen_tokens - before - len(answer.token_ids))
    assert counts[1] == counts[2] == counts[3]


def test_an_answer_ends_at_the_templates_end_token(tiny):
    """The answer stops at the token that the template puts behind it, even if the model names another end token."""
    tokenizer = byte_level()
    tokenizer.eos_token = "<s>"
    likeliest = torch.nn.functional.one_hot(torch.tensor([[0]]), 400) * 9.0
    tiny.model.lm_head.register_forward_hook(lambda *call: likeliest)
    with Session(Loaded(tiny.model, tokenizer, "x"), Dense()) as session:
        answer = Chat(session).say("Hello")
        assert answer.finish == "end"
        assert answer.token_ids == []
        assert read(session).endswith("<|turn|>assistant\n<|end|>\n")


def test_pieces_add_up_and_the_turn_is_completed(session):
    turn = Chat(session).stream("Hello", **SAMPLED)
    pieces = list(turn)
    assert "".join(pieces) == turn.result.text
    assert read(session).endswith("<|end|>\n")


def test_leaving_an_answer_early_completes_the_turn_there(session):
    chat = Chat(session)
    turn = chat.stream("Hello", temperature=1.0, seed=0, max_new_tokens=500)
    shown = [next(turn) for _ in range(3)]
    turn.close()
    assert turn.result.text.startswith("".join(shown))
    assert read(session).endswith(session.tokenizer.decode(turn.result.token_ids) + "<|end|>\n")
    chat.say("Go on", **SAMPLED)
    assert read(session).count("<|turn|>assistant") == 2


def test_an_interrupted_answer_is_completed_before_the_next_turn(session):
    chat = Chat(session)
    turn = chat.stream("Hello", temperature=1.0, seed=0, max_new_tokens=500)
    next(turn)
    with pytest.raises(KeyboardInterrupt), interrupt(2000):
        list(turn)
    partial = session.tokenizer.decode(turn.result.token_ids)
    assert read(session).endswith("<|turn|>assistant\n" + partial)
    chat.say("Go on", **SAMPLED)
    assert f"<|turn|>assistant\n{partial}<|end|>\n<|turn|>user\nGo on<|end|>\n" in read(session)


def test_an_interrupt_while_the_question_is_read_takes_it_back(tiny):
    with Session(tiny, Dense(), chunk=4) as session:
        chat = Chat(session)
        chat.say("Hello", **SAMPLED)
        before = session.seen_tokens
        with interrupt() as lines:
            Chat(session.fork()).stream("A long question about the tide and the gulls", **SAMPLED)
        with pytest.raises(KeyboardInterrupt), interrupt(lines[0] * 2 // 3):
            chat.stream("A long question about the tide and the gulls", **SAMPLED)
        assert session.seen_tokens == before
        assert chat.turns == 1
        assert chat.undo()
        assert session.seen_tokens == 0


def test_undo_takes_turns_back_as_far_as_it_was_told_to(session):
    chat = Chat(session, undo=2)
    seen = [0]
    for text in ("One", "Two", "Three"):
        chat.say(text, **SAMPLED)
        seen.append(session.seen_tokens)
    assert chat.undo()
    assert session.seen_tokens == seen[2]
    again = chat.say("Three", **SAMPLED)
    assert session.seen_tokens == seen[3]
    assert again.token_ids
    assert chat.undo()
    assert chat.undo()
    assert session.seen_tokens == seen[1]
    assert not chat.undo()
    assert chat.turns == 1


def test_undo_costs_nothing_when_it_is_not_wanted(session):
    chat = Chat(session, undo=0)
    chat.say("Hello", **SAMPLED)
    assert not chat.undo()
    assert len(session._marks) == 0
    with pytest.raises(ConfigError, match="undo=-1: must be at least 0"):
        Chat(session, undo=-1)


def test_resetting_opens_the_conversation_again(session):
    chat = Chat(session, system="Be kind.")
    chat.say("Hello", **SAMPLED)
    first = read(session)
    chat.say("Again", **SAMPLED)
    chat.reset()
    assert session.seen_tokens == 0
    chat.say("Hello", **SAMPLED)
    assert read(session) == first
    assert chat.turns == 1


def test_a_wrong_setting_leaves_the_conversation_alone(session):
    chat = Chat(session)
    chat.say("Hello", **SAMPLED)
    before = session.seen_tokens
    with pytest.raises(ConfigError):
        chat.say("Hello", top_k=-1)
    assert session.seen_tokens == before


def test_a_saved_conversation_goes_on(session, tmp_path, tiny):
    chat = Chat(session, system="Be kind.")
    chat.say("Hello", **SAMPLED)
    with SessionClass.load(session.save(tmp_path / "chat"), tiny) as restored:
        there, here = Chat(restored, system="Be kind.").say("And?", **SAMPLED), chat.say("And?", **SAMPLED)
        assert there.token_ids == here.token_ids
        assert torch.equal(restored.prediction, session.prediction)


def test_a_plain_model_cannot_chat(tiny):
    with Session(tiny.model, Dense()) as session, pytest.raises(CapabilityError, match="no chat template"):
        Chat(session)


def test_the_default_model_answers_within_bounded_memory(smollm2):
    with Session(smollm2, Sinks(sinks=16, window=48), chunk=64) as session:
        chat = Chat(session, undo=0)
        for text in ("What is the capital of France?", "And of Italy?"):
            answer = chat.say(text, max_new_tokens=16)
            assert answer.text
        assert session.report().dropped_tokens > 0
        assert session.report().window_tokens == 48
