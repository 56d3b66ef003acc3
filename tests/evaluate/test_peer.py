"""Plain transformers as a stream: equal to generate(), cut in the middle where too long, as if never asked."""

from __future__ import annotations

import pytest
import torch

from everlong.errors import TooLongError
from everlong.evaluate.baseline import PeerStream
from everlong.evaluate.stream import Clock

TEXT = "It was the best of times, it was the worst of times; the tide rose and fell. "


def stream(tiny, chunk=7):
    return PeerStream(tiny, Clock(), chunk)


def generated(tiny, ids, tokens):
    """What transformers' own greedy generate writes after these ids."""
    with torch.inference_mode():
        out = tiny.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
    return tiny.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_an_answer_is_that_of_generate(tiny):
    peer = stream(tiny)
    assert peer.feed(TEXT) == peer.seen_tokens
    ids = list(peer.ids) + tiny.tokenizer(" Why?", add_special_tokens=False)["input_ids"]
    assert peer.ask(" Why?", 9) == generated(tiny, ids, 9)
    assert peer.seen_tokens == len(ids) + peer.clock.new_tokens
    assert peer.clock.prompt_tokens == len(ids)


def test_it_goes_on_with_its_answer(tiny):
    peer = stream(tiny)
    peer.ask(TEXT, 5)
    before = list(peer.ids)
    again = before + tiny.tokenizer(" And", add_special_tokens=False)["input_ids"]
    assert peer.ask(" And", 6) == generated(tiny, again, 6)


def test_not_kept_it_was_never_asked(tiny):
    peer, fresh = stream(tiny), stream(tiny)
    peer.feed(TEXT)
    fresh.feed(TEXT)
    first = peer.ask(" Why?", 5, keep=False)
    assert peer.ids == fresh.ids
    assert peer.ask(" When", 5, keep=False) == fresh.ask(" When", 5)
    assert peer.ask(" Why?", 5, keep=False) == first


def test_a_prompt_that_is_too_long_loses_its_middle(tiny):
    peer = stream(tiny)
    peer.feed(TEXT * 20)
    ids, room = list(peer.ids), 128 - 6
    shown = ids[: room // 2] + ids[-(room - room // 2) + 1 :]
    question = tiny.tokenizer("?", add_special_tokens=False)["input_ids"]
    assert len(question) == 1
    assert peer.ask("?", 6) == generated(tiny, shown + question, 6)
    assert peer.clock.truncated_tokens == len(ids) + 1 - room
    assert peer.clock.prompt_tokens == len(ids) + 1


def test_an_answer_ends_before_a_stop_text(tiny):
    whole = stream(tiny).ask(TEXT, 20)
    stop = whole[4:6]
    assert stream(tiny).ask(TEXT, 20, (stop,)) == whole[: whole.index(stop)]


def test_scores_are_the_models(tiny):
    peer = stream(tiny)
    text = TEXT[:50]
    peer.feed(text)
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = torch.cat(list(peer.score(text)))
    with torch.inference_mode():
        logp = tiny.model(torch.tensor([ids + ids])).logits[0].log_softmax(-1)
    wanted = logp[len(ids) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert torch.allclose(found, wanted, atol=1e-5)
    first = torch.cat(list(stream(tiny).score(ids)))
    assert first[0].isnan()
    assert torch.allclose(first[1:], logp[: len(ids) - 1].gather(1, torch.tensor(ids)[1:, None])[:, 0], atol=1e-5)


def test_scores_beyond_the_trained_length_are_refused(tiny):
    with pytest.raises(TooLongError, match="dense attention takes 128"):
        next(stream(tiny).score(TEXT * 20))


def test_the_report_counts_the_cache(tiny):
    peer = stream(tiny)
    assert peer.report()["bytes"]["device"] == 0
    peer.ask(TEXT, 1)
    config = tiny.model.config
    width = config.num_key_value_heads * config.head_dim * 2 * config.num_hidden_layers * 4
    assert peer.report()["bytes"]["device"] == peer.seen_tokens * width
