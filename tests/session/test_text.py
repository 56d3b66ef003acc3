"""Ids of a stream equal those of the whole text, wherever it comes in pieces, in bounded memory."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlong.errors import InputError
from everlong.text.tokenize import ids_behind, pieces, special_ids, token_ids

from .conftest import TEXT, byte_level, prefix_space

WORDS = st.sampled_from(
    ["the", "Sea", "don't", ". ", ",", "...", "1234567", "naïve", "日本語", "e\u0301", "🙂", "x_y(z)", "—", "<|end|>"]
    + 2 * [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", " " * 30, "a" * 40, "0" * 25]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=400).map("".join), st.text(max_size=1500))


def flat(found) -> list[int]:
    return list(itertools.chain.from_iterable(found))


def cut_up(text: str, lengths: list[int]) -> list[str]:
    bounds = [0, *sorted(n % (len(text) + 1) for n in lengths), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("make", [byte_level, lambda: prefix_space("llama"), lambda: prefix_space("metaspace")])
@pytest.mark.parametrize("special", [False, True])
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(make, special):
    tokenizer = make()
    text = TEXT * 30
    whole = token_ids(tokenizer, text, special)
    for piece_chars, margin in ((200, 50), (1000, 100), (8192, 512)):
        assert flat(pieces([text], tokenizer, special, piece_chars, margin)) == whole
        assert flat(pieces(text.splitlines(True), tokenizer, special, piece_chars, margin)) == whole
        assert flat(pieces(iter(text), tokenizer, special, piece_chars, margin)) == whole


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, lengths=st.lists(st.integers(0, 10_000), max_size=6), special=st.booleans())
@pytest.mark.parametrize("make", [byte_level, lambda: prefix_space("llama"), lambda: prefix_space("metaspace")])
def test_any_text_in_any_pieces_has_the_ids_of_the_whole(make, text, lengths, special):
    tokenizer = make_once(make)
    whole = token_ids(tokenizer, text, special) if text else []
    assert flat(pieces(cut_up(text, lengths), tokenizer, special, 256, 64)) == whole


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, lengths=st.lists(st.integers(0, 10_000), max_size=6))
def test_any_text_in_any_pieces_with_the_default_models_tokenizer(smollm2, text, lengths):
    tokenizer = smollm2.tokenizer
    assert flat(pieces(cut_up(text, lengths), tokenizer, False, 256, 64)) == token_ids(tokenizer, text)


_MADE: dict = {}


def make_once(make):
    if make not in _MADE:
        _MADE[make] = make()
    return _MADE[make]


@pytest.mark.parametrize("unit", ["日本語のテキスト", "a", "0", " ", "\n"])
def test_a_text_without_words_is_cut_too(tokenizer, unit):
    text = unit * (6000 // len(unit))
    found = list(pieces([text], tokenizer, piece_chars=256, margin_chars=64))
    assert flat(found) == token_ids(tokenizer, text)
    assert len(found) > 5


def test_only_a_bounded_part_of_the_stream_is_held(tokenizer):
    """What was taken from the iterator is never far ahead of what was given out."""
    taken = 0

    def stream():
        nonlocal taken
        for word in itertools.cycle(TEXT.split(" ")):
            taken += len(word) + 1
            yield word + " "

    given = 0
    for ids in itertools.islice(pieces(stream(), tokenizer, piece_chars=512, margin_chars=64), 300):
        given += len(tokenizer.decode(ids))
        assert taken - given < 3 * 512
    assert given > 300 * 256


def test_a_text_that_cannot_be_cut_is_cut_at_a_bound():
    """A tokenizer whose tokens all change with what follows leaves no sure place; memory stays bounded all the same."""

    class Backwards:
        def __call__(self, text, **options):
            return {"input_ids": [len(text) - i for i in range(len(text))]}

    found = list(pieces(["ab " * 2000], Backwards(), piece_chars=100, margin_chars=10))
    assert max(map(len, found)) <= 410
    assert sum(map(len, found)) == 6000


def test_a_forced_cut_keeps_the_text(tokenizer):
    """Tokens that straddle every character leave no place to cut; the text is whole all the same."""
    text = "🙂" * 3000
    found = list(pieces([text], tokenizer, piece_chars=256, margin_chars=64))
    assert max(map(len, found)) < 5 * 256
    assert tokenizer.decode(flat(found)) == text


def test_special_ids_are_those_that_the_tokenizer_adds(tokenizer):
    assert special_ids(tokenizer) == ([], [])
    assert special_ids(byte_level(begin=True)) == ([2], [])


def test_ids_behind_a_context_have_no_beginning():
    tokenizer = prefix_space("metaspace")
    before, whole = token_ids(tokenizer, "the tide"), token_ids(tokenizer, "the tide rose")
    assert before + ids_behind(tokenizer, "the tide", " rose") == whole
    assert ids_behind(tokenizer, "x", "1") != token_ids(tokenizer, "1")
    assert token_ids(tokenizer, "x") + ids_behind(tokenizer, "x", "1") == token_ids(tokenizer, "x1")
    assert ids_behind(tokenizer, "", "the") == token_ids(tokenizer, "the")


def test_wrong_items_are_refused_in_one_line(tokenizer):
    with pytest.raises(InputError, match="an item of the stream is int: expected text"):
        list(pieces(iter(["a", 3]), tokenizer))
    with pytest.raises(InputError, match="surrogate pair"):
        list(pieces(["a\ud800b"], tokenizer))
