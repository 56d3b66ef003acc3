"""Tokenizers of one's own: to the character and back, the same from the same texts, loadable, total."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from everlong.errors import ConfigError, InputError
from everlong.models.fingerprint import tokenizer_digest
from everlong.text.haystack import KEY, KEY_QUESTION, NOISE, OPENING, PAPER_OPENING
from everlong.text.tokenize import pieces, special_ids, token_ids
from everlong.train.data import make_task
from everlong.train.tokenizer import END, UNKNOWN, bpe_tokenizer, closed_tokenizer
from tests.train import made

TEXTS = [PAPER_OPENING, OPENING, NOISE, KEY, KEY_QUESTION]
PROMPT = PAPER_OPENING + NOISE * 3 + KEY.format(key=90_541) + NOISE * 2 + KEY_QUESTION + " 90541"


def test_the_vocabulary_is_small_and_without_order():
    assert len(closed_tokenizer(make_task("passkey").texts())) == 59
    assert len(closed_tokenizer(make_task("passkey", {"opening": "either"}).texts())) == 70
    assert tokenizer_digest(closed_tokenizer(TEXTS)) == tokenizer_digest(closed_tokenizer(TEXTS[::-1] * 2))


def test_a_closed_text_comes_back_to_the_character():
    tokenizer = closed_tokenizer(TEXTS)
    for text in (PROMPT, "\n\n 1 2", "The grass", " grass", "3.\n a", ""):
        if UNKNOWN not in (tokens := tokenizer.tokenize(text)):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
            assert "".join(tokens) == text
    assert tokenizer.tokenize(KEY_QUESTION + " 90541")[-7:] == [" is", " ", "9", "0", "5", "4", "1"]
    assert UNKNOWN not in tokenizer.tokenize(PROMPT)


def test_a_text_outside_of_it_is_marked():
    tokenizer = closed_tokenizer(TEXTS)
    assert tokenizer.tokenize(" The whale is green.") == [" The", UNKNOWN, " is", " green", "."]


def test_a_closed_tokenizer_streams_as_it_reads_at_once():
    """Streams are cut anywhere, also within words; that is why there is an <unk>."""
    tokenizer = closed_tokenizer(TEXTS)
    whole = PAPER_OPENING + NOISE * 40
    parts = [whole[at : at + 700] for at in range(0, len(whole), 700)]
    streamed = [i for ids in pieces(parts, tokenizer, piece_chars=256, margin_chars=32) for i in ids]
    assert streamed == token_ids(tokenizer, whole)
    assert special_ids(tokenizer) == ([], [])
    assert token_ids(tokenizer, "\n" + NOISE)[1:] == token_ids(tokenizer, NOISE)


@pytest.mark.parametrize("kind", ["closed", "bpe"])
def test_a_saved_folder_is_loaded(kind, tmp_path):
    tokenizer = made.tokenizers(make_task("passkey"), tmp_path)[kind]
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded(PROMPT)["input_ids"] == tokenizer(PROMPT)["input_ids"]
    assert loaded.decode(loaded(PROMPT)["input_ids"]) == PROMPT
    assert (loaded.eos_token, loaded.pad_token, loaded.eos_token_id, loaded.bos_token) == (END, END, 0, None)
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    assert len(loaded) == len(tokenizer)


def test_bpe_is_the_same_from_the_same_books(tmp_path):
    files = sorted(made.books(tmp_path).glob("*.txt"))
    one, two = bpe_tokenizer(files, 400), bpe_tokenizer(files, 400)
    assert tokenizer_digest(one) == tokenizer_digest(two)
    assert 257 < len(one) <= 400
    text = "In year 1870 the tide\n\n  rose — “é” 🐳 and fell."
    assert one.decode(one(text)["input_ids"]) == text
    assert [t for t in one.tokenize(" 1870") if t.strip("Ġ")] == ["1", "8", "7", "0"]
    assert "Ġtide" in one.get_vocab()
    assert "Licence" not in one.get_vocab()


def test_too_few_tokens_and_no_books_are_said(tmp_path):
    with pytest.raises(ConfigError, match=r"vocabulary=256: must be at least 257"):
        bpe_tokenizer([], 256)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"empty.txt: is empty; expected the text of a book"):
        bpe_tokenizer([tmp_path / "empty.txt"], 300)
