"""Where blocks begin: blocks cut by surprise equal the slow float64 reference, however the input is cut and kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import everlong
from everlong import Blocks, Session
from everlong.cache.state import load_stream, stream_state
from everlong.engine.logprobs import logprobs
from everlong.errors import CapabilityError, ConfigError
from everlong.methods import make_method
from everlong.methods.blocks.boundaries import EvenBoundaries, SurpriseBoundaries, within
from tests.reference import SlowBlocks

IDS = torch.randint(97, (1, 150), generator=torch.Generator().manual_seed(3))
SMALL = {"sinks": 3, "window": 12, "block": 8, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6} | {
    "choose_every": 1,
    "codec": "native",
    "digest": "mean",
    "cut": "surprise",
    "surprise_gamma": 0.5,
    "surprise_window": 20,
}
ANSWER = range(100, 116)
PLACES = [{"positions": "far"}, {"positions": "ordered"}, {"positions": "true"}]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def small(**fields):
    return Blocks(**(SMALL | fields))


class Stream:
    """A cache of one row that is told the surprisals of what it read."""

    def __init__(self, model, cache):
        self.model, self.cache, self.last = model, cache, None

    def read(self, ids, chunk, answering=False):
        self.cache.blocks.answering, found = answering, []
        with torch.no_grad():
            for part in ids.split(min(chunk, self.cache.blocks.chunk_limit), dim=1):
                found.append(self.model(part, past_key_values=self.cache).logits)
                self.cache.blocks.tell(-logprobs(self.last, found[-1][0], part[0])[None])
                self.last = found[-1][0, -1]
        return torch.cat(found, 1)

    def read_and_answer(self, chunk):
        parts = (IDS[:, : ANSWER.start], False), (IDS[:, ANSWER], True), (IDS[:, ANSWER.stop :], False)
        return torch.cat([self.read(ids, chunk, answering) for ids, answering in parts], 1)


def starts(cache, row=0):
    return cache.blocks.rows[row].cuts.state()["starts"].tolist()


@pytest.mark.parametrize("fields", [*PLACES, {"choose_every": 3, "window": 30}])
def test_equals_the_slow_reference(model, fields):
    method = small(**fields)
    slow = SlowBlocks(model, method)
    expected = [slow.read(IDS[:, : ANSWER.start])]
    for answering, ids in ((True, IDS[:, ANSWER]), (False, IDS[:, ANSWER.stop :])):
        slow.answering = answering
        expected.append(slow.read(ids))
    lengths = {b - a for a, b in itertools.pairwise(slow.starts)}
    assert min(lengths) == 2
    assert max(lengths) == 8
    with everlong.attach(model, method) as handle:
        for chunk in (1, 7, 64):
            cache = handle.new_cache(chunk=16)
            got = Stream(model, cache).read_and_answer(chunk)[0].double()
            torch.testing.assert_close(got, torch.cat(expected), atol=1e-4, rtol=0)
            assert starts(cache) == slow.starts
            for layer, part in cache.blocks.rows[0].layers.items():
                assert part.now.chosen.tolist() == [slow.chosen[layer][-1][1]]
                mass = torch.stack(slow.mass[layer][-(method.window - 1) :], 1).float()
                torch.testing.assert_close(part.now.mass[0], mass, atol=1e-5, rtol=0)
                least, most = slow.digests_within(layer, 1e-4)
                digests = part.index.digests.joined(len(least))
                assert digests.dtype == torch.bfloat16
                assert ((least <= digests) & (digests <= most)).all()


@pytest.mark.parametrize("positions", ["true", "ordered"])
def test_equals_dense_with_all_blocks_chosen(tiny_llama, positions):
    model = tiny_llama(max_position_embeddings=512, initializer_range=0.3).double()
    with everlong.attach(model, small(top_k=100, positions=positions)) as handle, torch.no_grad():
        got = Stream(model, handle.new_cache(chunk=16)).read(IDS, 64)
        torch.testing.assert_close(got, model(IDS).logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("fields", [{"digest": "bounds"}, {"neighbours": 1}, {"codec": "bfloat16"}])
def test_options_do_not_depend_on_chunking(model, fields):
    with everlong.attach(model, small(**fields)) as handle:
        expected = Stream(model, handle.new_cache()).read_and_answer(11)
        for chunk in (3, 7):
            got = Stream(model, handle.new_cache(chunk=16)).read_and_answer(chunk)
            error = (got - expected).norm(dim=-1) / expected.norm(dim=-1)
            assert error.median() < 1e-5 if fields == {"codec": "bfloat16"} else error.max() < 1e-4


def test_state_and_fork_go_on_bit_for_bit(model):
    with everlong.attach(model, small()) as handle:
        stream = Stream(model, handle.new_cache())
        stream.read(IDS[:, :120], 10)
        others, last = [handle.new_cache(), stream.cache.fork()], stream.last
        load_stream(others[0].stream, *stream_state(stream.cache.stream))
        expected = stream.read(IDS[:, 120:], 10, answering=True)
        for cache in others:
            assert starts(cache) != starts(stream.cache)
            other = Stream(model, cache)
            other.last = last
            assert torch.equal(other.read(IDS[:, 120:], 10, answering=True), expected)
            assert starts(cache) == starts(stream.cache)


def test_rows_of_unequal_length_equal_single_runs(model):
    lengths, window = (90, 71, 88), 30
    rows = [IDS[:, 10 * i : 10 * i + n] for i, n in enumerate(lengths)]
    padded = torch.cat([torch.nn.functional.pad(r, (90 - r.shape[1], 0)) for r in rows])
    mask = torch.stack([torch.arange(90) >= 90 - n for n in lengths]).long()
    with everlong.attach(model, small(window=window)) as handle, torch.no_grad():
        cache, found, before = handle.new_cache(), [], [None] * 3
        for a in range(0, 90, 29):
            ids = padded[:, a : a + 29]
            extra = {"attention_mask": mask[:, :29]} if a == 0 else {}
            logits = model(ids, past_key_values=cache, **extra).logits
            told = torch.stack([-logprobs(*x) for x in zip(before, logits, ids, strict=True)])
            for i, n in enumerate(lengths):
                first = 90 - n - a
                if 0 <= first < 29:
                    told[i, first] = torch.nan
            cache.blocks.tell(told)
            before, found = list(logits[:, -1]), [*found, logits]
        for i, row in enumerate(rows):
            alone = Stream(model, handle.new_cache())
            expected = alone.read(row, 29)
            torch.testing.assert_close(torch.cat(found, 1)[i : i + 1, 90 - lengths[i] :], expected, atol=1e-4, rtol=0)
            assert starts(cache, i) == starts(alone.cache)


def test_a_forward_that_is_too_long_or_was_not_told_is_refused(model):
    with everlong.attach(model, small()) as handle, torch.no_grad():
        cache = handle.new_cache()
        with pytest.raises(CapabilityError, match="12 tokens with window=12; at most 11"):
            model(IDS[:, :12], past_key_values=cache)
        expected = Stream(model, handle.new_cache()).read(IDS[:, :11], 11)
        assert torch.equal(model(IDS[:, :11], past_key_values=cache).logits, expected)
        with pytest.raises(CapabilityError, match="11 tokens were read and the surprisal of 0 is known"):
            model(IDS[:, :1], past_key_values=cache)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cut": "odd"}, "cut=odd: expected one of even, surprise"),
        ({"surprise_gamma": float("nan")}, "must be finite"),
        ({"surprise_window": 1}, "surprise_window=1: must be at least 2"),
        ({"cut": "even"}, "surprise_gamma=0.5: has no effect with cut=even"),
        ({"per_head": True}, "unequal parts of the slots"),
        ({"window": 1}, "window=1: must be at least 2 with cut=surprise"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        make_method("blocks", SMALL | fields)


def session(model, **where):
    return Session(model, small(), chunk=64, **where)


def test_a_session_cuts_as_the_reference_does_and_is_kept(model, tmp_path):
    slow = SlowBlocks(model, small())
    slow.read(IDS)
    ids = IDS[0].tolist()
    with session(model) as one, session(model) as other:
        one.feed(ids[:120])
        other.score(ids[:120])
        path = one.save(tmp_path / "s")
        with Session.load(path, model, chunk=64) as restored, session(model, store=tmp_path) as kept:
            kept.feed(ids[:80])
            kept.checkpoint()
            kept.feed(ids[:9])
            kept.close()
            with Session.open(tmp_path, "default", model, chunk=64) as reopened:
                reopened.feed(ids[80:120])
                sessions = [one.fork(), other, restored, reopened, one]
                answers = []
                for s in sessions:
                    answers.append(s.fork().generate(max_new_tokens=9).token_ids)
                    s.feed(ids[120:])
                    assert starts(s._runner._cache) == slow.starts
                assert all(a == answers[0] for a in answers)


def test_the_report_counts_tokens_and_citations_name_blocks(model):
    slow = SlowBlocks(model, small())
    slow.read(IDS)
    with session(model) as one:
        one.feed(IDS[0].tolist())
        report, blocks = one.report(), one._runner.blocks
        assert report.stored_tokens == 150 - 15
        lengths = [b - a for a, b in itertools.pairwise(slow.starts)]
        assert report.retrieved_tokens == max(sum(lengths[n] for n in c[-1][1]) for c in slow.chosen)
        one.generate([1, 2, 3], max_new_tokens=4)
        cited = blocks.rows[0].done.cited
        assert 0 < sum(cited.values()) < 2 * 4 * 7
        spans = [blocks.rows[0].block_range(n) for n in cited]
        assert spans == [(slow.starts[n], slow.starts[n + 1]) for n in cited]
        found = blocks.rows[0].blocks_within(slow.starts[4], slow.starts[7])
        assert found == range(4, 7)
        assert blocks.rows[0].blocks_within(slow.starts[4] + 1, slow.starts[7] - 1) == range(5, 6)
        one.drop_blocks(found)
        report = one.report()
        assert report.dropped_tokens == slow.starts[7] - slow.starts[4]
        assert report.seen_tokens == 3 + 12 + report.stored_tokens + report.dropped_tokens
        one.generate([1, 2, 3], max_new_tokens=4)
        assert not set(found) & set(blocks.rows[0].done.cited)


def test_surprisals_lost_by_an_interrupt_cut_nothing(model, monkeypatch):
    with session(model) as one:
        one.feed(IDS[0, :55].tolist())
        blocks = one._runner.blocks
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "tell", lambda x: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                one.feed(IDS[0, 55:60].tolist())
        assert one.seen_tokens == 60
        one.feed(IDS[0, 60:].tolist())
        found = starts(one._runner._cache)
        assert all(b - a <= 8 for a, b in itertools.pairwise(found))
        assert one.report().seen_tokens == 150


def test_boundaries_do_not_depend_on_how_they_are_told():
    values = np.random.default_rng(0).gamma(1.0, 3.0, 300)
    values[[0, 90]] = np.nan
    found = []
    for size in (1, 7, 300):
        cuts = SurpriseBoundaries(small(block=16), pad=4)
        for part in np.split(np.concatenate((np.full(4, 99.0), values)), range(size, 304, size)):
            cuts.tell(part)
        assert cuts.known == 300
        found.append(cuts.state()["starts"].tolist())
    assert found[0] == found[1] == found[2]
    lengths = np.diff(found[0])
    assert lengths.min() == 4
    assert lengths.max() == 16


def test_even_and_surprise_agree_where_all_blocks_are_full():
    even, cuts = EvenBoundaries(3, 8), SurpriseBoundaries(small())
    cuts.tell(np.ones(100))
    assert cuts.state()["starts"].tolist() == [even.start(n) for n in range(13)]
    blocks = np.array([[2, 5, 9]])
    for name in ("starts", "behind"):
        assert getattr(even, name)(blocks).tolist() == getattr(cuts, name)(blocks).tolist()
    for token in (0, 3, 10, 11, 12, 98):
        assert even.before(token) == cuts.before(token)
        assert within(even, token, 60) == within(cuts, token, 60)
    assert even.tokens({1, 2}) == cuts.tokens({1, 2}) == 16
    mass = torch.rand(1, 4, 24)
    np.testing.assert_allclose(even.shares(mass, blocks), cuts.shares(mass, blocks), rtol=1e-6)
