"""Log-probabilities: those of the plain model, given all that came before, in bounded memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from everlong import Dense, Session, Sinks
from everlong.engine import logprobs as score

from .conftest import TEXT

IDS = [(7 * i * i + 3 * i) % 400 for i in range(90)]


def plain(model, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities of ids[1:] and all logits, by one forward of the stock model."""
    logits = model(torch.tensor([ids])).logits[0].detach()
    return logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0], logits


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_a_score_is_the_plain_models_log_softmax(tiny, chunk):
    expected, logits = plain(tiny.model, IDS)
    with Session(tiny.model, Dense(), chunk=chunk) as session:
        found, after = session.score(IDS, logits=True)
        assert session.seen_tokens == 90
    assert found.dtype == torch.float32
    assert found.shape == (90,)
    assert found[0].isnan()
    assert torch.allclose(found[1:], expected, atol=1e-4)
    assert torch.allclose(after, logits, atol=1e-4)
    assert not found.is_inference()
    assert not after.is_inference()


def test_a_score_is_given_all_that_came_before(tiny):
    expected, _ = plain(tiny.model, IDS)
    with Session(tiny.model, Dense()) as session:
        session.feed(IDS[:40])
        parts = [session.score(IDS[40:41]), session.score(IDS[41:70])]
        session.feed(IDS[70:80])
        parts.append(session.score(IDS[80:]))
    found = torch.cat(parts)
    assert not found.isnan().any()
    assert torch.allclose(found, torch.cat([expected[39:69], expected[79:]]), atol=1e-4)


def test_the_logits_are_the_predictions_after_each_token(tiny):
    with Session(tiny.model, Sinks(sinks=2, window=10), chunk=8) as session:
        _, after = session.score(IDS, logits=True)
        assert torch.equal(after[-1], session.prediction)
        session.reset()
        session.feed(IDS[:50])
        assert torch.allclose(after[49], session.prediction, atol=1e-4)


def test_a_stream_is_scored_piece_by_piece_and_no_further_than_asked(tiny):
    with Session(tiny, Sinks(sinks=2, window=10), chunk=8) as session:
        whole = session.score(TEXT * 3)
        session.reset()
        parts = list(session.score_stream(iter([TEXT] * 3)))
        assert all(len(part) == 8 for part in parts[:-1])
        assert torch.equal(torch.cat(parts)[1:], whole[1:])
        session.reset()
        endless = itertools.cycle([TEXT])
        assert sum(map(len, session.score_stream(endless, max_tokens=20))) == 20
        assert session.seen_tokens == 20


def test_leaving_a_scored_stream_keeps_what_was_given_out(tiny):
    with Session(tiny, Sinks(sinks=2, window=10), chunk=8) as session:
        parts = session.score_stream(itertools.cycle([TEXT]))
        given = [next(parts) for _ in range(3)]
        parts.close()
        assert session.seen_tokens == sum(map(len, given)) == 24


def test_rows_are_normalised_a_few_at_a_time(monkeypatch):
    """The same numbers, whatever number of rows goes through the softmax at once."""
    before, after, ids = torch.randn(50), torch.randn(23, 50), torch.randint(50, (23,))
    expected = torch.cat([before[None], after[:-1]]).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    for elements in (1, 150, 2**19):
        monkeypatch.setattr(score, "_SLICE_ELEMENTS", elements)
        assert torch.equal(score.logprobs(before, after, ids), expected)


def test_half_precision_logits_are_normalised_in_float32():
    after, ids = torch.randn(5, 50).bfloat16(), torch.randint(50, (5,))
    found = score.logprobs(None, after, ids)
    assert found.dtype == torch.float32
    expected = after[:-1].float().log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    assert torch.equal(found[1:], expected)


def test_the_default_models_score_is_that_of_transformers(smollm2):
    ids = smollm2.tokenizer(TEXT)["input_ids"]
    with torch.inference_mode():
        expected, _ = plain(smollm2.model, ids)
    with Session(smollm2, Dense()) as session:
        found = session.score(TEXT)
    assert torch.allclose(found[1:], expected, atol=4e-4)
