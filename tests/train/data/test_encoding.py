"""Texts as tokens: as they are within a longer text, with weights where characters are known."""

from __future__ import annotations

import types

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from everlong.errors import InputError
from everlong.text.haystack import DULL, KEY, PAPER_OPENING
from everlong.text.tokenize import token_ids
from everlong.train.data import make_task
from everlong.train.data.encoding import beginning, encoded, standing
from tests.models.tiny import byte_tokenizer
from tests.train import made


def wide_digits() -> PreTrainedTokenizerFast:
    """Bytes, with tokens of two digits and of a space with a digit, as older models have them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("1", "2"), ("3", "4"), ("Ġ", "5")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges=merges))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.mark.parametrize("kind", ["closed", "bpe", "bytes"])
def test_pieces_make_up_the_whole(kind, tmp_path):
    tokenizer = made.tokenizers(make_task("passkey"), tmp_path)[kind]
    parts = [*DULL, KEY.format(key=12_345), *DULL]
    found = [*encoded(tokenizer, [PAPER_OPENING], begin=True), *encoded(tokenizer, parts)]
    assert np.concatenate([one.ids for one in found]).tolist() == token_ids(tokenizer, PAPER_OPENING + "".join(parts))


def prefix_space(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Letters and these pairs, with a space put before every text, as Llama 2 does."""
    words = [*"▁.ab", *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges=list(merges)))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_a_piece_has_no_beginning_of_its_own():
    tokenizer = prefix_space(("▁", "a"))
    assert tokenizer.tokenize(" ab") == ["▁", "▁a", "b"]
    (found,) = encoded(tokenizer, [" ab"])
    assert tokenizer.convert_ids_to_tokens(found.ids.tolist()) == ["▁a", "b"]
    assert found.covers.tolist() == [[0, 2], [2, 3]]


def test_nothing_of_what_stands_before_is_taken_along():
    tokenizer = prefix_space((".", "▁"))
    assert tokenizer.tokenize(". ab") == ["▁", ".▁", "a", "b"]
    (found,) = encoded(tokenizer, [" ab"])
    assert tokenizer.convert_ids_to_tokens(found.ids.tolist()) == ["▁", "▁", "a", "b"]


def test_the_tokens_before_every_text():
    assert len(beginning(wide_digits())) == 0
    tokenizer = wide_digits()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "5 $A 1", special_tokens=[("5", 9), ("1", 8)]
    )
    begin = beginning(tokenizer)
    assert (begin.ids.tolist(), begin.loss_weight.tolist()) == ([9], [0])


@pytest.mark.parametrize(("digits", "weighed"), [("12534", ["12", "5", "34"]), ("52134", [" 5", "2", "1", "34"])])
def test_weights_reach_every_token_that_holds_a_digit(digits, weighed):
    tokenizer = wide_digits()
    text = f" it is {digits}."
    (found,) = encoded(tokenizer, [text])
    span = (text.index(digits), text.index(digits) + 5)
    piece, (start, end) = found.piece({span: 1.0}), found.tokens(span)
    assert [tokenizer.decode([i]) for i in piece.ids[piece.loss_weight == 1]] == weighed
    assert piece.ids[start:end].tolist() == piece.ids[piece.loss_weight == 1].tolist()
    assert set(piece.loss_weight.tolist()) == {1.0, -1.0}
    assert not piece.filler


def test_words_outside_a_closed_vocabulary_are_said():
    tokenizer = made.closed(make_task("passkey"))
    with pytest.raises(InputError, match=r"' whale': not in the vocabulary of the tokenizer; make one from all texts"):
        encoded(tokenizer, [" The grass", " The whale is blue."])
    with pytest.raises(InputError, match=r"'Whale': not in the vocabulary"):
        encoded(tokenizer, ["Whale"], begin=True)


def test_a_tokenizer_without_places_is_refused():
    with pytest.raises(InputError, match="tokenizer SimpleNamespace: cannot say where tokens stand; use a fast one"):
        encoded(types.SimpleNamespace(is_fast=False), ["a"])


def test_what_stands_is_tokenised_once():
    tokenizer = byte_tokenizer()
    first = standing(tokenizer, *DULL)
    assert standing(tokenizer, *DULL) is first
    assert [one.ids.tolist() for one in first] == [one.ids.tolist() for one in encoded(tokenizer, DULL)]
