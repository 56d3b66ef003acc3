"""Block memory against the slow float64 reference: outputs, chosen blocks, masses, digests, for any chunking."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong import Blocks
from everlong.errors import CapabilityError, ConfigError
from everlong.methods import make_method
from everlong.methods.blocks import slots
from everlong.methods.blocks.pins import Pin
from tests.reference import SlowBlocks

IDS = torch.randint(97, (1, 140), generator=torch.Generator().manual_seed(3))
SMALL = {"sinks": 3, "window": 12, "block": 5, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6} | {
    "choose_every": 1,
    "codec": "native",
    "positions": "far",
    "digest": "mean",
}
ANSWER = range(90, 115)


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def small(**fields):
    return Blocks(**(SMALL | fields))


def read(model, cache, ids, chunk, answering=False):
    if cache.blocks is not None:
        cache.blocks.answering = answering
    with torch.no_grad():
        return torch.cat([model(p, past_key_values=cache).logits for p in ids.split(chunk, dim=1)], 1)


def read_and_answer(model, cache, chunk):
    """Reads, answers for some tokens, reads on."""
    parts = (IDS[:, : ANSWER.start], False), (IDS[:, ANSWER], True), (IDS[:, ANSWER.stop :], False)
    return torch.cat([read(model, cache, ids, chunk, answering) for ids, answering in parts], 1)


PLACES = [{}, {"choose_every": 3}, {"positions": "ordered"}, {"positions": "true"}]
SLOW = pytest.mark.slow(reason="`make test` has each place with digests of one kind, and both kinds with one place")
FIELDS = [
    pytest.param({"digest": d, **f}, marks=SLOW if f and d == "bounds" else ())
    for d in ("mean", "bounds")
    for f in PLACES
]


@pytest.mark.parametrize("fields", FIELDS)
def test_equals_the_slow_reference(model, fields):
    method = small(**fields)
    slow = SlowBlocks(model, method)
    expected = [slow.read(IDS[:, : ANSWER.start])]
    for answering, ids in ((True, IDS[:, ANSWER]), (False, IDS[:, ANSWER.stop :])):
        slow.answering = answering
        expected.append(slow.read(ids))
    with everlong.attach(model, method) as handle:
        for chunk in (1, 7, 16, 64, 512):
            cache = handle.new_cache(chunk=16)
            got = read_and_answer(model, cache, chunk)[0].double()
            torch.testing.assert_close(got, torch.cat(expected), atol=1e-4, rtol=0)
    assert cache.blocks is not None
    for layer, part in cache.blocks.rows[0].layers.items():
        assert part.now.chosen.tolist() == [slow.chosen[layer][-1][1]]
        if method.digest == "mean":
            mass = torch.stack(slow.mass[layer][-(method.window - 1) :], 1).float()
            torch.testing.assert_close(part.now.mass[0], mass, atol=1e-5, rtol=0)
        least, most = slow.digests_within(layer, 1e-4)
        digests = part.index.digests.joined(len(least))
        assert digests.dtype == torch.bfloat16
        assert ((least <= digests) & (digests <= most)).all()


@pytest.mark.parametrize("positions", ["far", "ordered"])
def test_pinned_blocks_are_chosen_as_in_the_slow_reference(model, positions):
    """Pinned while token 40 is the newest: a block that is sealed, and one that still has to be."""
    method, pins = small(positions=positions), (Pin(9, 12), Pin(46, 48, keep=False))
    slow = SlowBlocks(model, method)
    expected = [slow.read(IDS[:, :40])]
    slow.pin({1, 8})
    expected.append(slow.read(IDS[:, 40:100]))
    slow.answering = True
    expected.append(slow.read(IDS[:, 100:115]))
    assert all(8 in found for layer in slow.chosen for t, found in layer if t >= 80)
    with everlong.attach(model, method) as handle:
        for chunk in (1, 7, 64):
            cache = handle.new_cache(chunk=16)
            got = [read(model, cache, IDS[:, :40], chunk)]
            assert [cache.blocks.rows[0].pin(pin) for pin in pins] == [[1], [8]]
            got += [read(model, cache, IDS[:, 40:100], chunk), read(model, cache, IDS[:, 100:115], chunk, True)]
            torch.testing.assert_close(torch.cat(got, 1)[0].double(), torch.cat(expected), atol=1e-4, rtol=0)
    for layer, part in cache.blocks.rows[0].layers.items():
        assert part.now.chosen.tolist() == [slow.chosen[layer][-1][1]]
        assert {1, 8} <= set(part.now.chosen[0].tolist())
    assert (cache.blocks.rows[0].pinned, cache.blocks.rows[0].kept) == ({1, 8}, {1})


@pytest.mark.parametrize("fields", [{"neighbours": 1}, {"per_head": True}, {"digest": "bounds"}])
def test_pins_hold_with_every_option(model, fields):
    with everlong.attach(model, small(**fields)) as handle:
        cache = handle.new_cache(chunk=16)
        read(model, cache, IDS[:, :100], 16)
        for pin in (Pin(9, 12), Pin(60, 62)):
            cache.blocks.rows[0].pin(pin)
        read(model, cache, IDS[:, 100:120], 16)
        for memory in (cache.blocks, cache.fork().blocks):
            for part in memory.rows[0].layers.values():
                assert all({1, 11} <= set(chosen) for chosen in part.now.chosen.tolist())


def test_pins_that_cannot_be_are_refused(model):
    with everlong.attach(model, small()) as handle:
        cache = handle.new_cache(chunk=16)
        read(model, cache, IDS, 16)
        with pytest.raises(ConfigError, match="4 blocks would always be attended to, and top_k=3 have room"):
            cache.blocks.rows[0].pin(Pin(3, 23))
        assert cache.blocks.rows[0].pinned == set()
        assert cache.blocks.rows[0].pin(Pin(3, 23, always=False)) == [0, 1, 2, 3]
        cache.blocks.rows[0].drop([2])
        assert cache.blocks.rows[0].kept == {0, 1, 3}
        with pytest.raises(CapabilityError, match="block 2 was dropped"):
            cache.blocks.rows[0].pin(Pin(14, 15))
        with pytest.raises(ConfigError, match="neither always nor keep"):
            Pin(3, 8, always=False, keep=False)


@pytest.mark.parametrize("positions", ["true", "ordered"])
def test_equals_dense_with_all_blocks_chosen(tiny_llama, positions):
    model = tiny_llama(max_position_embeddings=512, initializer_range=0.3)
    with torch.no_grad():
        expected = model(IDS).logits
    with everlong.attach(model, small(top_k=60, positions=positions)) as handle:
        got = read(model, handle.new_cache(chunk=16), IDS, 20)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    with everlong.attach(model.double(), small(top_k=60, positions=positions)) as handle, torch.no_grad():
        got = read(model, handle.new_cache(chunk=16), IDS, 20)
        torch.testing.assert_close(got, model(IDS).logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("fields", [{"per_head": True}, {"digest": "mean", "per_head": True}, {"neighbours": 1}])
def test_options_do_not_depend_on_chunking(model, fields):
    with everlong.attach(model, small(**fields)) as handle:
        expected = read_and_answer(model, handle.new_cache(), 1)
        for chunk in (7, 64, 512):
            got = read_and_answer(model, handle.new_cache(chunk=16), chunk)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("codec", "error"), [("native", 0), ("bfloat16", 0.02), ("int8", 0.02), ("int4", 0.3)])
def test_codecs_serve_nearly_the_same(model, codec, error):
    """A cut may move a number over the edge of a step of the codec, so chunkings agree to such a step only.

    Few tokens choose another block for it, so the error is that of the median token.
    """
    with everlong.attach(model, small()) as handle, everlong.attach(model, small(codec=codec)) as coded:
        expected = read_and_answer(model, handle.new_cache(), 16)
        got = read_and_answer(model, coded.new_cache(), 16)
        other = read_and_answer(model, coded.new_cache(), 64)
    for a, b in ((got, expected), (got, other)):
        assert ((a - b).norm(dim=-1) / expected.norm(dim=-1)).median() <= max(error, 1e-5)


def test_answering_differs_from_reading_and_a_choice_can_be_kept(model):
    with everlong.attach(model, small()) as handle, everlong.attach(model, small(choose_every=4)) as slower:
        reading = read(model, handle.new_cache(), IDS, 16)
        answering = read_and_answer(model, handle.new_cache(), 16)
        seldom = read_and_answer(model, slower.new_cache(), 16)
    start = ANSWER.start
    torch.testing.assert_close(reading[:, :start], answering[:, :start], atol=1e-4, rtol=0)
    assert not torch.allclose(reading[:, start:], answering[:, start:], atol=1e-2)
    assert not torch.allclose(seldom[:, start:], answering[:, start:], atol=1e-2)


def test_rows_of_unequal_length_equal_single_runs(model):
    lengths = (90, 71, 88)
    rows = [IDS[:, 10 * i : 10 * i + n] for i, n in enumerate(lengths)]
    padded = torch.cat([torch.nn.functional.pad(r, (90 - r.shape[1], 0)) for r in rows])
    mask = torch.stack([torch.arange(90) >= 90 - n for n in lengths]).long()
    later = IDS[:, 110:125].expand(3, -1)
    with everlong.attach(model, small()) as handle, torch.no_grad():
        cache = handle.new_cache()
        first = model(padded, attention_mask=mask, past_key_values=cache).logits
        second = read(model, cache, later, 4, answering=True)
        for i, row in enumerate(rows):
            alone = handle.new_cache()
            expected = read(model, alone, row, 64)
            torch.testing.assert_close(first[i : i + 1, 90 - lengths[i] :], expected, atol=1e-4, rtol=0)
            expected = read(model, alone, later[:1], 7, answering=True)
            torch.testing.assert_close(second[i : i + 1], expected, atol=1e-4, rtol=0)


def test_a_failed_forward_leaves_the_memory_as_it_was(model, monkeypatch):
    for positions in ("far", "ordered"):
        with everlong.attach(model, small(positions=positions)) as handle:
            cache, twin = handle.new_cache(chunk=16), handle.new_cache(chunk=16)
            for c in (cache, twin):
                read(model, c, IDS[:, :70], 16)
            with monkeypatch.context() as patch:
                patch.setattr(model.model.layers[1].mlp, "forward", lambda x: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    read(model, cache, IDS[:, 80:140], 60)
            assert cache.report().seen_tokens == 70
            for answering in (True, False):
                got, expected = (read(model, c, IDS[:, 70:110], 9, answering) for c in (cache, twin))
                assert torch.equal(got, expected)


def test_fork_shares_sealed_blocks_and_is_independent(model):
    with everlong.attach(model, small()) as handle:
        cache = handle.new_cache(chunk=16)
        read(model, cache, IDS[:, :100], 16)
        fork = cache.fork()
        read(model, fork, IDS[:, 60:], 16)
        twin = handle.new_cache(chunk=16)
        read(model, twin, IDS[:, :100], 16)
        expected = read(model, twin, IDS[:, 100:], 16, answering=True)
        assert torch.equal(read(model, cache, IDS[:, 100:], 16, answering=True), expected)


def test_report_and_citations(model):
    with everlong.attach(model, small()) as handle:
        cache = handle.new_cache()
        read(model, cache, IDS, 16)
        report = cache.report()
        assert (report.sink_tokens, report.window_tokens, report.dropped_tokens) == (3, 12, 0)
        assert report.stored_tokens == 140 - 15
        assert report.retrieved_tokens == 15
        assert report.bytes["host"] > 0
        assert cache.blocks is not None
        assert cache.blocks.rows[0].done.cited == {}
        read(model, cache, IDS[:, :4], 2, answering=True)
        cited = cache.blocks.rows[0].done.cited
        assert cited
        assert 0 < sum(cited.values()) < 2 * 4 * 4


def test_blocks_left_after_a_drop_move_to_the_slots_that_are_seen(model):
    """A dropped block lay between two that stay: they are attended to, and it is not."""
    with everlong.attach(model, small()) as handle:
        cache = handle.new_cache()
        read(model, cache, IDS[:, :30], 16)
        assert cache.blocks is not None
        read(model, cache, IDS[:, 30:31], 1, answering=True)
        assert sorted(cache.blocks.rows[0].done.cited) == [0, 1, 2]
        cache.blocks.rows[0].drop([1])
        cache.blocks.rows[0].forget_citations()
        read(model, cache, IDS[:, 31:32], 1, answering=True)
        assert sorted(cache.blocks.rows[0].done.cited) == [0, 2]


def test_what_it_cannot_take_back_or_hold_is_refused(model):
    with everlong.attach(model, small()) as handle:
        cache = handle.new_cache()
        read(model, cache, IDS[:, :9], 9)
        assert not cache.is_croppable
        with pytest.raises(CapabilityError, match="cannot take it back"):
            cache.crop(-1)
    with pytest.raises(ConfigError, match="positions"):
        make_method("blocks", {"positions": "near"})
    with pytest.raises(ConfigError, match="top_k=0: must be at least 1"):
        Blocks(top_k=0)


def test_the_papers_choice_sees_the_cell_itself(model):
    """Pooling over the cell is not causal: what comes later in a cell moves what came before it."""
    later = IDS.clone()
    later[:, 94:] = 1
    with everlong.attach(model, small()) as causal, everlong.attach(model, small(choice="paper")) as paper:
        moved = {
            name: (read(model, h.new_cache(), IDS, 16) - read(model, h.new_cache(), later, 16))[:, :94].abs().max()
            for name, h in (("causal", causal), ("paper", paper))
        }
    assert moved["causal"] < 1e-4
    assert moved["paper"] > 1e-2


@pytest.mark.parametrize("positions", ["far", "true", "ordered"])
@pytest.mark.parametrize("per_head", [False, True])
def test_blocks_put_into_their_slots_together_lie_as_one_by_one(tiny_llama, monkeypatch, positions, per_head):
    """As on a GPU."""
    method = everlong.Blocks(
        sinks=2, window=16, block=4, top_k=3, exec_chunk=8, pool=8, positions=positions, per_head=per_head
    )
    ids = torch.randint(97, (100,), generator=torch.Generator().manual_seed(1))
    found = []
    for one_by_one in ({"cpu"}, set()):
        monkeypatch.setattr(slots, "ONE_BY_ONE", one_by_one)
        with everlong.Session(tiny_llama(), method, chunk=16) as session:
            session.feed(ids)
            found.append(session.prediction)
    torch.testing.assert_close(*found, atol=0, rtol=0)
