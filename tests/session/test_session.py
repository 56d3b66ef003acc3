"""Feeding, forking and rewinding: the same as the plain model, and the same however it is fed."""

from __future__ import annotations

import gc

import pytest
import torch

import everlong
from everlong import Dense, Recompute, Session, Sinks, Window
from everlong.engine.generation import GenerationStream
from everlong.engine.recompute import RecomputeRunner
from everlong.engine.runner import Forward
from everlong.engine.sampling import Sampling
from everlong.errors import CapabilityError, ConfigError, InputError, SessionError
from everlong.models.load import Loaded

from .conftest import TEXT, byte_level, interrupt

METHODS = [Dense(), Window(window=24), Sinks(sinks=4, window=20)]
STREAM = [(7 * i * i + 3 * i) % 400 for i in range(180)]


def prediction(session: Session) -> torch.Tensor:
    found = session.prediction
    assert found is not None
    return found


@pytest.fixture
def model(tiny):
    return tiny.model


def test_a_session_needs_sensible_settings(tiny):
    for chunk in (0, -1, True):
        with pytest.raises(ConfigError, match=f"chunk={chunk}: must be a whole number of at least 1"):
            Session(tiny, Dense(), chunk=chunk)


def test_while_all_fits_the_prediction_is_the_plain_models(model):
    expected = model(torch.tensor([STREAM[:24]])).logits[0, -1]
    for method in METHODS:
        with Session(model, method, chunk=7) as session:
            assert session.feed(STREAM[:24]) == 24
            assert torch.allclose(prediction(session), expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_any_chunk_gives_the_same_prediction(model, method):
    found = []
    for chunk in (1, 7, 64, 512):
        with Session(model, method, chunk=chunk) as session:
            session.feed(STREAM)
            found.append(prediction(session))
    assert all(torch.allclose(found[0], other, atol=1e-4) for other in found)


def test_ids_of_all_kinds_and_text_of_all_kinds_are_read_alike(tiny, tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    kinds = [ids, tuple(ids), torch.tensor(ids), torch.tensor(ids, dtype=torch.int32), torch.tensor(ids).numpy()]
    kinds += [TEXT, iter([TEXT]), [TEXT[:50], TEXT[50:]], iter(TEXT)]
    found = []
    for x in kinds:
        with Session(tiny, Sinks(sinks=4, window=20), chunk=16) as session:
            assert session.feed(x) == len(ids)
            found.append(prediction(session))
    assert all(torch.equal(found[0], other) for other in found)


def test_empty_input_changes_nothing(tiny):
    with Session(Loaded(tiny.model, byte_level(begin=True), "x"), Dense()) as session:
        for x in ("", [], (), torch.empty(0), iter([]), ["", ""]):
            assert session.feed(x) == 0
            assert session.score(x).shape == (0,)
        assert session.score([], logits=True)[1].shape == (0, 400)
        assert session.seen_tokens == 0
        assert session.prediction is None


def test_wrong_ids_are_refused_before_anything_changes(model):
    with Session(model, Dense()) as session:
        session.feed([1, 2, 3])
        before = prediction(session)
        for wrong in ([1, 400], [-1, 2], torch.tensor([5, 4000])):
            for read in (session.feed, session.score, session.generate):
                with pytest.raises(InputError, match=r"outside the model's vocabulary \(0\.\.399\)"):
                    read(wrong)
        assert session.seen_tokens == 3
        assert torch.equal(prediction(session), before)


def test_a_plain_model_takes_ids_only(model):
    with Session(model, Dense()) as session:
        with pytest.raises(CapabilityError, match="text: this session has no tokenizer"):
            session.feed("hello")
        with pytest.raises(CapabilityError, match="stop: this session has no tokenizer"):
            session.generate([1], stop=("x",))
        answer = session.generate([1, 2], max_new_tokens=3)
        assert answer.text == ""
        assert len(answer.token_ids) == 3


def test_special_tokens_come_once_and_only_from_the_tokenizer(tiny):
    with Session(Loaded(tiny.model, byte_level(begin=True), "x"), Dense()) as session:
        words = [len(byte_level()(text)["input_ids"]) for text in ("hello", " world", "again")]
        assert session.feed("hello") == words[0] + 1
        assert session.recent.ids()[0] == 2
        assert session.feed(" world") == words[1]
        assert session.feed(iter(["aga", "in"])) == words[2]
        assert (session.recent.ids() == 2).sum() == 1


def test_only_the_last_row_goes_through_the_head(model):
    rows = []
    handle = model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
    with Session(model, Window(window=24), chunk=16) as session:
        session.feed(STREAM[:40])
        assert rows == [1, 1, 1]
        session.score(STREAM[:20])
        assert rows[3:] == [16, 4]
    handle.remove()


def test_any_interrupt_while_feeding_leaves_a_chunk_read_or_not(model):
    """Wherever it comes, what was read is whole chunks, and the session goes on as if nothing had been."""
    with Session(model, Sinks(sinks=4, window=20), chunk=16) as whole:
        whole.feed(STREAM[:80])
        expected = prediction(whole)
    with Session(model, Sinks(sinks=4, window=20), chunk=16) as session, interrupt() as lines:
        session.feed(STREAM[:48])
    seen = set()
    for at in range(3, lines[0], 67):
        with Session(model, Sinks(sinks=4, window=20), chunk=16) as session:
            start = session.feed(STREAM[:32])
            try:
                with interrupt(at):
                    session.feed(STREAM[32:64])
            except KeyboardInterrupt:
                pass
            seen.add(session.seen_tokens)
            assert session.seen_tokens in (start, start + 16, start + 32)
            assert session.recent.ids().tolist() == STREAM[: session.seen_tokens]
            session.feed(STREAM[session.seen_tokens : 80])
            assert torch.allclose(prediction(session), expected, atol=1e-4)
    assert seen == {32, 48, 64}


@pytest.mark.parametrize("method", [*METHODS, Recompute(window=12)], ids=str)
def test_a_fork_goes_its_own_way(model, method):
    with Session(model, method) as session:
        session.feed(STREAM[:70])
        fork = session.fork()
        fork.score(STREAM[100:150])
        expected = session.fork().score(STREAM[70:90])
        again = session.score(STREAM[70:90])
        assert torch.equal(expected, again)
        assert (session.seen_tokens, fork.seen_tokens) == (90, 120)
        assert fork.recent.ids().tolist() == STREAM[:70] + STREAM[100:150]


def test_a_fork_outlives_its_session(model):
    session = Session(model, Sinks(sinks=4, window=20))
    session.feed(STREAM[:70])
    expected = session.fork().generate(max_new_tokens=4).token_ids
    fork = session.fork()
    session.close()
    assert fork.generate(max_new_tokens=4).token_ids == expected
    fork.close()


@pytest.mark.parametrize("method", [*METHODS, Recompute(window=12)], ids=str)
def test_rewinding_comes_back_to_the_mark(model, method):
    with Session(model, method) as session:
        session.feed(STREAM[:70])
        mark = session.mark()
        first = session.score(STREAM[70:100])
        assert mark.seen_tokens == 70
        for _ in range(2):
            session.rewind(mark)
            assert session.seen_tokens == 70
            assert torch.equal(session.score(STREAM[70:100]), first)
        mark.close()
        with pytest.raises(SessionError, match="this mark is closed or of another session"):
            session.rewind(mark)


def test_a_mark_of_another_session_is_refused(model):
    with Session(model, Dense()) as session, Session(model, Dense()) as other:
        mark = other.mark()
        with pytest.raises(SessionError, match="of another session"):
            session.rewind(mark)


def test_resetting_begins_anew(tiny):
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        first = session.score(TEXT)
        session.reset()
        assert session.seen_tokens == 0
        assert session.recent.ids().tolist() == []
        assert torch.equal(session.score(TEXT)[1:], first[1:])


def test_the_report_accounts_for_every_token(model):
    for method in [*METHODS, Recompute(window=12)]:
        with Session(model, method) as session:
            for ids in (STREAM[:5], STREAM[5:60]):
                session.feed(ids)
                found = session.report()
                parts = found.sink_tokens + found.window_tokens + found.stored_tokens + found.dropped_tokens
                assert found.seen_tokens == parts == session.seen_tokens
                assert found.method == str(method)


def test_a_closed_session_is_of_no_use_and_leaves_the_model_as_it_was(model):
    stock = dict(model.model.__dict__)
    session = Session(model, Dense())
    session.feed([1, 2])
    fork, mark = session.fork(), session.mark()
    session.close()
    session.close()
    assert mark.closed
    fork.close()
    assert dict(model.model.__dict__) == stock
    for use in (lambda: session.feed([1]), session.generate, session.report, session.fork, session.mark):
        with pytest.raises(SessionError, match="the session is closed"):
            use()


def test_a_forgotten_session_lets_go_of_the_model(model):
    stock = dict(model.model.__dict__)
    session = Session(model, Dense())
    session.feed([1, 2])
    mark, fork = session.mark(), session.fork()
    del session, mark, fork
    gc.collect()
    assert dict(model.model.__dict__) == stock


def held(x, seen: set[int]) -> int:
    """Bytes and objects that hang on `x`, the model and the tokenizer apart."""
    if id(x) in seen or isinstance(x, torch.nn.Module | type) or (callable(x) and not hasattr(x, "seen_tokens")):
        return 0
    seen.add(id(x))
    if isinstance(x, torch.Tensor):
        return x.untyped_storage().nbytes()
    inside = list(x.values()) if isinstance(x, dict) else list(x) if isinstance(x, list | tuple | set) else []
    return 64 * (1 + len(inside)) + sum(held(part, seen) for part in [*inside, *getattr(x, "__dict__", {}).values()])


def test_nothing_in_a_session_grows_with_the_stream(model):
    """Python objects and tensors are as many after 20,000 tokens as after 5,000 (windows long since full)."""
    with Session(model, Sinks(sinks=4, window=60), chunk=512) as session:
        sizes = []
        for _ in range(4):
            session.feed([i % 400 for i in range(5000)])
            session.generate(max_new_tokens=3)
            sizes.append(held(session, set()))
        assert max(sizes) - min(sizes) < 4096
        assert sizes[0] > 4096


class Counting(RecomputeRunner):
    """A reader that only counts: what is left is the session's own work."""

    def read(self, ids: torch.Tensor, every: bool, answering: bool) -> torch.Tensor:
        self._seen_and_held = (self.seen_tokens + len(ids), ids)
        return torch.zeros(1, 400)


def test_the_ten_millionth_token_costs_no_more_than_the_ten_thousandth(model):
    """Lines of Python run for a token, for a chunk and for an answer, counted, not timed."""
    counts = []
    for seen in (10_000, 10_000_000):
        with Session(model, Recompute(window=64)) as session:
            session._runner = Counting(Forward(model), session.method)
            session._runner._seen_and_held = (seen, torch.tensor([0]))
            session.recent.seen = seen
            with interrupt() as lines:
                session.feed([1])
                session.feed([i % 400 for i in range(2000)])
                list(
                    GenerationStream(
                        session, Sampling(max_new_tokens=5, temperature=1.0, seed=0, repetition_penalty=1.2)
                    )
                )
            assert session.seen_tokens == seen + 2006
            assert session.recent.ids()[-2006] == 1
            counts.append(lines[0])
    assert counts[0] == counts[1]


@pytest.mark.heavy(reason="the law of the project on the real model")
def test_the_default_model_goes_on_alike_however_it_is_fed(smollm2):
    """The law of the project on the real model: SmolLM2 over a cache of 32 tokens, text against pieces."""
    text = TEXT * 2
    with Session(smollm2, Sinks(sinks=4, window=28), chunk=64) as one:
        one.feed(text)
        with Session(smollm2, Sinks(sinks=4, window=28), chunk=19) as other:
            other.feed(text.split("\n", 3)[0])
            other.reset()
            other.feed(iter(text))
            assert torch.allclose(prediction(one), prediction(other), atol=4e-4)
            first, second = (s.generate(max_new_tokens=8) for s in (one, other))
    assert first.token_ids == second.token_ids
    assert first.text == smollm2.tokenizer.decode(first.token_ids)


def test_the_package_names_the_session():
    assert everlong.Session is Session


def test_a_model_and_its_tokenizer_are_what_load_gives(tiny):
    with Session((tiny.model, tiny.tokenizer), Sinks(2, 30)) as pair, Session(tiny, Sinks(2, 30)) as loaded:
        pair.feed("The tide rose.")
        loaded.feed("The tide rose.")
        assert pair.seen_tokens == loaded.seen_tokens > 1


@pytest.mark.parametrize("model", [None, "smollm2", 3, (None, None), []])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ConfigError, match=r"model: got .*, expected what everlong.load gave"):
        Session(model, Sinks())


def test_a_session_without_a_method_says_what_to_give(tiny):
    with pytest.raises(ConfigError, match=r"method=None: expected a method such as everlong\.Sinks"):
        Session((tiny.model, tiny.tokenizer))
