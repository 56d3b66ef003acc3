"""What comes back for a question: the heads' vote against exact attention, kept and forked, forgotten and full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import everlong
from everlong.engine import recall_index
from everlong.errors import CapabilityError, ConfigError, InputError
from everlong.library.library import Library
from everlong.models import retrieval_heads
from everlong.session.recall import Ballot
from everlong.storage.base import stored
from tests.conftest import tiny_random_llama
from tests.reference import slow_rarity

HEADS = ((0, 1), (1, 2), (1, 3))
SIZES = {
    "sinks": 4,
    "window": 32,
    "block": 16,
    "top_k": 4,
    "exec_chunk": 32,
    "pool": 8,
    "recall_slots": 2,
    "codec": "native",
}


@pytest.fixture
def calibrated(monkeypatch):
    """As if these heads had been found for every model."""
    found = retrieval_heads.RetrievalHeads(HEADS, (0.5,) * len(HEADS))
    monkeypatch.setattr(recall_index, "find", lambda model: found)


@pytest.fixture
def model():
    return tiny_random_llama()


@pytest.fixture
def ids():
    return torch.randint(0, 97, (700,), generator=torch.Generator().manual_seed(5))


def session(model, ids, chunk=50, store=None, fields=None, **kept):
    made = everlong.Session(model, everlong.Blocks(**SIZES | (fields or {})), chunk, store=store, **kept)
    made.feed(ids)
    return made


def exact_votes(one, question, weights):
    """Softmax over the raw keys of sinks, blocks and window in float64, head by head and token by token."""
    memory = one.stored("test")
    row, queries = memory.rows[0], one.runner.scout(torch.tensor(question))
    sealed, seen = memory.rows[0].sealed, one.seen_tokens
    total = np.zeros(sealed)
    for layer, head in HEADS:
        part, asked = row.layers[layer], queries[layer]
        kv_head = head // (part.shape.heads // part.shape.kv_heads)
        keys = [stored(row.store, layer, [n], torch.device("cpu"))[0][0, kv_head].clone() for n in range(sealed)]
        others = [
            memory.rows[0].sink_keys(layer)[kv_head],
            one.runner.raw_keys(layer, row.cuts.start(sealed), seen)[kv_head],
        ]
        scores = (asked.q[head].double() @ torch.cat([*keys, *others]).double().T) * asked.scale
        mass = scores.softmax(1)[:, : 16 * sealed].view(len(question), sealed, -1).sum(2)
        total += (mass * torch.from_numpy(weights)[:, None]).amax(0).numpy()
    return total


@pytest.mark.usefixtures("calibrated")
def test_heads_vote_by_their_exact_attention(model, ids):
    with session(model, ids[: 32 + 4 + 16 * 20], fields={"codec": "native"}) as one:
        question = ids[100:112].tolist()
        votes = Ballot(one, question).heads.votes[: one.stored("test").rows[0].sealed]
        starts = [*range(4, one.seen_tokens, 16), one.seen_tokens]
        rarity = slow_rarity(ids[4 : one.seen_tokens].tolist(), [n - 4 for n in starts], question)
        wanted = exact_votes(one, question, np.array(rarity))
        # What is left is the step of int8 keys.
        assert np.allclose(votes, wanted, rtol=0.02)
        assert votes.argmax() == wanted.argmax()


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_vote_does_not_depend_on_how_the_text_was_cut(model, ids, chunk):
    question = ids[300:312].tolist()
    with session(model, ids[:400], 50) as one, session(model, ids[:400], chunk) as other:
        a, b = (Ballot(s, question) for s in (one, other))
        assert np.allclose(a.heads.votes, b.heads.votes, atol=1e-5)
        assert [c.block for c in a.candidates()] == [c.block for c in b.candidates()]


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("fields", [{}, {"positions": "far"}, {"positions": "true"}, {"cut": "surprise"}])
def test_scouting_leaves_no_trace(model, ids, fields):
    question = ids[300:312].tolist()
    with session(model, ids, fields=fields) as one, session(model, ids, fields=fields) as other:
        before = one.report()
        for _ in range(2):
            Ballot(one, question).candidates()
        assert one.report() == before
        more = torch.arange(40)
        assert torch.equal(one.score(more)[1:], other.score(more)[1:])


@pytest.mark.usefixtures("calibrated")
def test_a_session_that_scouted_is_saved_and_goes_on(model, ids, tmp_path):
    with session(model, ids) as one:
        Ballot(one, ids[300:312].tolist())
        path = one.save(tmp_path / "saved")
        with everlong.Session.load(path, model, chunk=50) as other:
            assert np.array_equal(Ballot(one, [5, 6]).heads.votes, Ballot(other, [5, 6]).heads.votes)
            assert torch.equal(one.score(ids[:90]), other.score(ids[:90]))


@pytest.mark.usefixtures("calibrated")
def test_words_find_a_run_of_the_text_and_its_block_is_held(model, ids):
    with session(model, ids) as one:
        question = ids[300:312].tolist()
        best = Ballot(one, question).words.scores.argmax()
        assert best == (300 - 4) // 16
        one.generate(question, max_new_tokens=2)
        row = one.stored("test").rows[0]
        assert best in row.recalled
        assert all(best in part.chosen_blocks for part in row.layers.values())
        one.feed(ids[:8])
        assert not row.recalled


@pytest.mark.usefixtures("calibrated")
def test_the_window_takes_part(model, ids):
    with session(model, ids) as one:
        question = ids[-20:-8].tolist()
        ballot = Ballot(one, question)
        block = int(ballot.words.scores.argmax())
        assert ballot.starts[block] <= len(ids) - 14 < ballot.starts[block + 1]
        assert len(ballot.heads.votes) == len(ballot.starts) - 1


@pytest.mark.usefixtures("calibrated")
def test_a_kept_session_has_the_same_index_after_it_was_opened(model, ids, tmp_path):
    question = ids[300:312].tolist()
    with session(model, ids, 7, tmp_path, name="a") as one:
        wanted = Ballot(one, question).heads.votes
        first = one.generate(question, max_new_tokens=3).token_ids
    with everlong.Session.open(tmp_path, "a", model, read_only=True) as again:
        assert again.seen_tokens == len(ids) + len(question) + 3
    with session(model, ids, 50, tmp_path, name="b") as one:
        one.checkpoint()
    with everlong.Session.open(tmp_path, "b", model) as again:
        assert np.allclose(Ballot(again, question).heads.votes, wanted, atol=1e-5)
        assert again.generate(question, max_new_tokens=3).token_ids == first
    verified = Library(tmp_path).verify(Library(tmp_path).entry("b"))
    assert verified["damaged_recall_rows"] == []


@pytest.mark.usefixtures("calibrated")
def test_forks_share_rows_and_go_on_apart(model, ids, tmp_path):
    with session(model, ids[:400], 50, tmp_path, name="a"):
        pass
    library = Library(tmp_path)
    library.fork("a", "b")
    for name, more in (("a", ids[400:]), ("b", ids[400:].flip(0))):
        with everlong.Session.open(tmp_path, name, model) as one:
            one.feed(more)
    for name, text in (("a", ids), ("b", torch.cat([ids[:400], ids[400:].flip(0)]))):
        with everlong.Session.open(tmp_path, name, model, read_only=True) as kept, session(model, text) as fresh:
            assert np.allclose(Ballot(kept, [5, 6, 7]).heads.votes, Ballot(fresh, [5, 6, 7]).heads.votes, atol=1e-5)
    library.delete("a")
    assert library.verify(library.entry("b"))["damaged_recall_rows"] == []


def test_an_older_session_gets_its_index_from_its_stored_keys(model, ids, tmp_path, monkeypatch):
    with session(model, ids, 50, tmp_path, name="a"):
        pass
    with everlong.Session.open(tmp_path, "a", model, read_only=True) as before:
        assert Ballot(before, [5, 6]).heads is None
    found = retrieval_heads.RetrievalHeads(HEADS, (0.5,) * len(HEADS))
    monkeypatch.setattr(recall_index, "find", lambda model: found)
    with everlong.Session.open(tmp_path, "a", model) as one, session(model, ids) as fresh:
        assert np.allclose(Ballot(one, [5, 6]).heads.votes, Ballot(fresh, [5, 6]).heads.votes, atol=2e-2)


@pytest.mark.usefixtures("calibrated")
def test_damaged_rows_are_found_and_built_again(model, ids, tmp_path):
    with session(model, ids, 50, tmp_path, name="a"):
        pass
    (path,) = (tmp_path / "blocks").glob("*.recall")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    library = Library(tmp_path)
    assert library.verify(library.entry("a"))["damaged_recall_rows"]
    with (
        everlong.Session.open(tmp_path, "a", model, read_only=True) as one,
        pytest.raises(everlong.errors.DamagedError),
    ):
        Ballot(one, [5, 6])
    library.verify(library.entry("a"), repair=True)
    with everlong.Session.open(tmp_path, "a", model) as one, session(model, ids) as fresh:
        assert np.allclose(Ballot(one, [5, 6]).heads.votes, Ballot(fresh, [5, 6]).heads.votes, atol=2e-2)


@pytest.mark.usefixtures("calibrated")
def test_forgotten_blocks_get_no_vote_and_leave_no_bytes(model, ids, tmp_path):
    with session(model, ids, 50, tmp_path, name="a") as one:
        one.forget((296, 320))
        ballot = Ballot(one, ids[300:312].tolist())
        block = (300 - 4) // 16
        assert ballot.words.scores[block] == 0
        assert ballot.heads.votes[block] == 0
        assert block not in [c.block for c in ballot.candidates()]
        index = one.stored("test").rows[0].recall
        assert not index.rows(block, block + 1).any()


@pytest.mark.usefixtures("calibrated")
def test_what_one_stream_forgets_its_fork_still_finds(model, ids):
    question, block = ids[300:312].tolist(), (300 - 4) // 16
    with session(model, ids) as one, one.fork() as twin:
        wanted = Ballot(twin, question).heads.votes
        one.forget((296, 320))
        assert np.array_equal(Ballot(twin, question).heads.votes, wanted)
        assert Ballot(one, question).heads.votes[block] == 0


@pytest.mark.usefixtures("calibrated")
def test_ids_only_are_kept_when_blocks_are_not(model, ids, tmp_path):
    with session(model, ids, 50, tmp_path, {"keep": "ids"}, name="a") as one:
        report = one.report()
        assert report.ids_tokens == 16 * one.stored("test").rows[0].sealed > 500
        assert report.dropped_tokens == 0
        ids_bytes = report.bytes["disk"]
        with session(model, ids) as whole:
            question = ids[300:312].tolist()
            assert (Ballot(one, question).words.scores == Ballot(whole, question).words.scores).all()
        one.generate(ids[:5].tolist(), max_new_tokens=2)
        with pytest.raises(CapabilityError, match="only ids are kept"):
            one.pin((100, 120))
    with everlong.Session.open(tmp_path, "a", model) as again:
        assert Ballot(again, question).words.scores.argmax() == (300 - 4) // 16
        assert again.stored("test").rows[0].recall.blocks == again.stored("test").rows[0].sealed
    with session(model, ids, 50, tmp_path, name="b") as blocks:
        assert ids_bytes < blocks.report().bytes["disk"] / 2


@pytest.mark.usefixtures("calibrated")
def test_blocks_that_give_way_keep_ids_and_recall_rows(model, ids, tmp_path):
    text = torch.cat([ids, ids.flip(0), ids.roll(300)])
    question = ids[300:312].tolist()
    full = {"disk_budget": 880_000, "when_full": "ids"}
    with session(model, text) as free, session(model, text, 50, tmp_path, name="full", **full) as one:
        row, report = one.stored("test").rows[0], one.report()
        assert row.bare
        assert not row.dropped
        assert report.dropped_tokens == 0
        assert report.ids_tokens == 16 * len(row.bare)
        assert report.bytes["disk"] <= 880_000
        ballot = Ballot(one, question)
        assert (ballot.words.scores == Ballot(free, question).words.scores).all()
        assert len(ballot.heads.votes) == len(ballot.starts) - 1
        one.generate(question, max_new_tokens=2)
        assert not row.bare.intersection(row.recalled)
    with everlong.Session.open(tmp_path, "full", model, **full) as again:
        assert again.stored("test").rows[0].bare
        assert again.report().dropped_tokens == 0
        again.feed(ids[:200])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recall": "layer", "keep": "ids"}, "keep=ids"),
        ({"recall": "layer", "recall_slots": 3}, "no effect"),
        ({"recall_heads": 0}, "at least 1"),
    ],
)
def test_settings_without_effect_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        everlong.Blocks(**fields)


def test_a_question_needs_a_tokenizer(model, ids):
    with session(model, ids) as one, pytest.raises(InputError, match="no tokenizer"):
        one.ask("Who?")


@pytest.mark.usefixtures("calibrated")
def test_a_fork_that_forgot_everything_has_an_index_again(model, ids):
    with session(model, ids) as one, one.fork() as twin:
        twin.reset()
        twin.feed(ids)
        index = twin.stored("test").rows[0].recall
        assert index is not None
        assert index.layers == one.stored("test").rows[0].recall.layers
