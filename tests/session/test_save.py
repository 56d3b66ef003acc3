"""A saved session goes on bit for bit, and only with its own model, tokenizer, method and format."""

from __future__ import annotations

import shlex

import pytest
import torch

from everlong import Blocks, Dense, Recompute, Session, Sinks, Window
from everlong.cli.main import run
from everlong.errors import ConfigError, DamagedError, ForeignError, InputError, SaveError, SessionError
from everlong.library import state_file as sealed
from everlong.library.library import Library
from everlong.models.fingerprint import fingerprint
from everlong.models.load import Loaded

from .conftest import TEXT, byte_level, interrupt, names, prefix_space
from .keeping import answer, kept

IDS = [(7 * i * i + 3 * i) % 400 for i in range(150)]
METHODS = [Dense(), Window(window=24), Sinks(sinks=4, window=20), Recompute(window=12)]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("seen", [0, 1, 19, 64, 150])
def test_a_restored_session_goes_on_bit_for_bit(tiny, tmp_path, method, seen):
    with Session(tiny, method, chunk=16) as session:
        session.feed(IDS[:seen])
        path = session.save(tmp_path / "s")
        with Session.load(path, tiny, chunk=16) as restored:
            assert restored.method == method
            assert restored.seen_tokens == seen
            assert restored.recent.ids().tolist() == session.recent.ids().tolist()
            assert restored.report().seen_tokens == session.report().seen_tokens
            for ids in (IDS[20:21], IDS[30:80]):
                (a, x), (b, y) = (s.score(ids, logits=True) for s in (session, restored))
                assert torch.equal(x, y)
                assert torch.equal(a[1:], b[1:])
            if method.streams:
                one, other = (
                    s.generate(max_new_tokens=20, temperature=1.0, seed=0, repetition_penalty=1.2)
                    for s in (session, restored)
                )
                assert one.token_ids == other.token_ids
                assert one.text == other.text


def test_a_session_in_bfloat16_is_restored_too(tiny, tmp_path):
    for weight in tiny.model.parameters():
        weight.data = weight.data.bfloat16()
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        session.feed(IDS)
        with Session.load(session.save(tmp_path / "s"), tiny) as restored:
            assert restored.prediction.dtype == torch.bfloat16
            assert torch.equal(restored.prediction, session.prediction)
            assert restored.generate(max_new_tokens=9).token_ids == session.generate(max_new_tokens=9).token_ids


def test_a_fork_and_a_rewound_session_can_be_saved(tiny, tmp_path):
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        session.feed(IDS[:50])
        mark = session.mark()
        expected = session.fork().generate(max_new_tokens=5).token_ids
        session.feed(IDS[50:])
        session.rewind(mark)
        for i, one in enumerate((session, session.fork())):
            with Session.load(one.save(tmp_path / str(i)), tiny) as restored:
                assert restored.generate(max_new_tokens=5).token_ids == expected


@pytest.fixture
def path(tiny, tmp_path):
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        session.feed(TEXT)
        return session.save(tmp_path / "stream.session")


def test_another_model_is_refused_by_what_differs(tiny, tiny_llama, path):
    other = tiny_llama(vocab_size=400, seed=1)
    with pytest.raises(ForeignError, match=r"saved with model tiny; another model weights than given here") as caught:
        Session.load(path, Loaded(other, tiny.tokenizer, "other"))
    assert "\n" not in str(caught.value)
    other = tiny_llama(vocab_size=400, max_position_embeddings=128)
    with pytest.raises(ForeignError, match="another model configuration than given here"):
        Session.load(path, Loaded(other, tiny.tokenizer, "other"))
    other = tiny_llama(vocab_size=400, num_hidden_layers=1)
    with pytest.raises(ForeignError, match="another model configuration and model weights than"):
        Session.load(path, Loaded(other, tiny.tokenizer, "other"))


def test_one_changed_layer_is_another_model(tiny, path):
    with torch.no_grad():
        tiny.model.model.layers[1].mlp.up_proj.weight.mul_(1.0001)
    with pytest.raises(ForeignError, match="model weights"):
        Session.load(path, tiny)


def test_another_tokenizer_is_refused(tiny, path):
    with pytest.raises(ForeignError, match="another tokenizer than given here"):
        Session.load(path, Loaded(tiny.model, prefix_space("llama"), "x"))


def test_another_type_of_the_same_weights_is_refused(tiny, path):
    for weight in tiny.model.parameters():
        weight.data = weight.data.bfloat16()
    with pytest.raises(ForeignError, match="model weights"):
        Session.load(path, tiny)


def test_a_tokenizer_that_was_used_otherwise_is_the_same(tiny, path):
    tokenizer = byte_level()
    tokenizer.pad_token = "<|end|>"
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    Session.load(path, Loaded(tiny.model, tokenizer, "x")).close()


def test_where_one_side_has_no_tokenizer_ids_go_on(tiny, path):
    with Session.load(path, tiny.model) as session:
        assert session.generate(max_new_tokens=2).token_ids


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (4, r"of format 4, newer than this everlong knows \(3\); update it"),
        (1, "of format 1, expected 3; use the version"),
    ],
)
def test_another_format_is_refused(tiny, path, number, words):
    tensors, document = sealed.read(path)
    assert document["format"] == 2
    sealed.write(path, tensors, document | {"format": number})
    with pytest.raises(ForeignError, match=r"by everlong [\d.]+: a session " + words):
        Session.load(path, tiny)


def test_a_session_with_digests_in_bfloat16_has_a_format_of_its_own(tiny, tmp_path):
    with Session(tiny, Blocks(sinks=3, window=12, block=5, top_k=3, exec_chunk=16, pool=6), chunk=16) as session:
        session.feed(IDS)
        assert sealed.read(session.save(tmp_path / "s"))[1]["format"] == 3
        Session.load(tmp_path / "s", tiny).close()


def test_an_unknown_method_is_refused(tiny, path):
    tensors, document = sealed.read(path)
    for method in ({"name": "diary", "fields": {}}, {"name": "sinks", "fields": {"depth": 3}}):
        sealed.write(path, tensors, document | {"method": method})
        with pytest.raises(ForeignError, match="a method that this version does not have"):
            Session.load(path, tiny)


def test_a_damaged_file_is_never_a_fresh_start(tiny, path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedError, match="not the ones that were written"):
        Session.load(path, tiny)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        Session.load(path, tiny)


def test_a_refused_session_leaves_the_model_alone(tiny, path, monkeypatch):
    stock = dict(tiny.model.model.__dict__)
    tensors, document = sealed.read(path)
    del tensors["recent"]
    sealed.write(path, tensors, document)
    with pytest.raises(DamagedError, match="lacks"):
        Session.load(path, tiny)
    assert dict(tiny.model.model.__dict__) == stock


def test_a_session_goes_on_after_a_failed_save(tiny, tmp_path):
    with Session(tiny, Dense()) as session:
        session.feed(IDS[:30])
        expected = session.fork().generate(max_new_tokens=4).token_ids
        with pytest.raises(SaveError):
            session.save(tmp_path / "no" / "such" / "folder")
        assert session.generate(max_new_tokens=4).token_ids == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # cut off on its way out of a `with`
def test_an_interrupt_while_saving_leaves_session_and_folder_whole(tiny, tmp_path):
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        session.feed(IDS)
        expected = session.prediction
        with interrupt() as lines:
            session.save(tmp_path / "s")
        for at in range(1, lines[0], 29):
            (tmp_path / "s").unlink(missing_ok=True)
            with pytest.raises(KeyboardInterrupt), interrupt(at):
                session.save(tmp_path / "s")
            assert names(tmp_path) in ([], ["s"])
            if (tmp_path / "s").exists():
                Session.load(tmp_path / "s", tiny).close()
        assert torch.equal(session.prediction, expected)


def test_the_fingerprint_does_not_depend_on_being_attached(tiny):
    before = fingerprint(tiny.model, tiny.tokenizer)
    with Session(tiny, Dense()) as session:
        session.feed(IDS[:5])
        assert fingerprint(tiny.model, tiny.tokenizer) == before


def test_a_method_without_its_own_name_is_not_kept_as_its_parent(tiny, tmp_path):
    class Sinker(Sinks):
        """Inherits the name of its parent."""

    with Session(tiny, Sinker(sinks=4, window=20)) as session:
        session.feed(IDS[:9])
        with pytest.raises(ConfigError, match="Sinker: has no name of its own"):
            session.save(tmp_path / "s")
    with pytest.raises(ConfigError, match="Sinker: has no name of its own"):
        Session(tiny, Sinker(sinks=4, window=20), store=tmp_path / "store")
    assert not (tmp_path / "s").exists()
    with Session(tiny, Sinks(sinks=4, window=20)) as session:
        session.save(tmp_path / "s")
    with Session.load(tmp_path / "s", tiny) as session:
        assert type(session.method) is Sinks


def test_the_default_model_goes_on_after_a_night(smollm2, tmp_path):
    with Session(smollm2, Sinks(sinks=4, window=28)) as session:
        session.feed(TEXT)
        with Session.load(session.save(tmp_path / "s"), smollm2) as restored:
            assert restored.name == "smollm2"
            assert torch.equal(restored.prediction, session.prediction)
            assert restored.generate(max_new_tokens=6).token_ids == session.generate(max_new_tokens=6).token_ids


def test_a_session_whose_blocks_lie_in_a_store_says_where_and_how_it_becomes_one_file(tiny, tmp_path):
    with kept(tiny, tmp_path / "a store") as session:
        with pytest.raises(SessionError, match=r"save: session 'one' is kept in .*a store") as said:
            session.save(tmp_path / "file")
        with session.fork() as twin:
            with pytest.raises(SessionError, match="everlong sessions fork NAME NEW"):
                twin.save(tmp_path / "file")
            expected = answer(twin)
    assert not (tmp_path / "file").exists()
    # What the message tells to type is typed.
    words = shlex.split(str(said.value).split("`")[1].replace("FILE", str(tmp_path / "out.tar")))
    assert run(words[1:]) == 0
    Library(tmp_path / "other").take(tmp_path / "out.tar")
    with Session.open(tmp_path / "other", "one", tiny, chunk=16) as session:
        assert session.seen_tokens == 150
        assert answer(session) == expected


@pytest.mark.parametrize(
    "method",
    [Window(window=24), Blocks(sinks=3, window=12, block=5, top_k=3, exec_chunk=16, pool=6, keep="ids")],
    ids=["window", "ids"],
)
def test_a_kept_session_without_stored_blocks_can_be_saved(tiny, tmp_path, method):
    with Session(tiny, method, chunk=16, store=tmp_path / "store") as session:
        session.feed(IDS)
        session.save(tmp_path / "file")
        expected = session.generate(max_new_tokens=9).token_ids
    with Session.load(tmp_path / "file", tiny, chunk=16) as restored:
        assert restored.seen_tokens == len(IDS)
        assert restored.generate(max_new_tokens=9).token_ids == expected
