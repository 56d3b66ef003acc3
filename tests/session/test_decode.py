"""Text from tokens as they come: whole characters only, the whole text in the end, and an end at a stop string."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlong.text.decode import Decoder, StopGuard

from .conftest import TEXT, byte_level, prefix_space

BYTE_LEVEL, LLAMA = byte_level(), prefix_space("llama")


def streamed(tokenizer, ids) -> list[str]:
    decoder = Decoder(tokenizer)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA], ids=["bytes", "llama"])
def test_the_pieces_are_the_decoded_text_and_whole_characters(tokenizer):
    ids = tokenizer(TEXT * 5, add_special_tokens=False)["input_ids"]
    found = streamed(tokenizer, ids)
    assert "".join(found) == tokenizer.decode(ids) == TEXT * 5
    assert not any("\ufffd" in piece for piece in found)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, len(BYTE_LEVEL) - 1), max_size=120))
def test_any_tokens_give_their_decoded_text(ids):
    """Random tokens are mostly broken UTF-8; the pieces still add up to what the tokenizer decodes."""
    assert "".join(streamed(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids, skip_special_tokens=True)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=200))
def test_any_text_survives(smollm2, text):
    ids = smollm2.tokenizer(text)["input_ids"]
    found = streamed(smollm2.tokenizer, ids)
    assert "".join(found) == smollm2.tokenizer.decode(ids, skip_special_tokens=True)


def test_characters_that_were_given_out_stay_when_broken_bytes_follow():
    """Such a tokenizer decodes the two bytes together, as two replacement characters."""
    ids = LLAMA.convert_tokens_to_ids(["<0x7C>", "<0xE0>"])
    assert LLAMA.decode(ids) == "\ufffd\ufffd"
    assert streamed(LLAMA, ids) == ["|", "", "\ufffd"]


def test_half_a_character_waits_and_is_marked_at_the_end():
    ids = BYTE_LEVEL("鬱")["input_ids"]
    assert len(ids) == 3
    decoder = Decoder(BYTE_LEVEL)
    assert [decoder.push(i) for i in ids] == ["", "", "鬱"]
    assert decoder.push(ids[0]) == ""
    assert decoder.flush() == "\ufffd"


def test_the_work_per_token_does_not_grow():
    """Only the last tokens are decoded again, however long the answer is."""
    decoder, longest = Decoder(BYTE_LEVEL), 0
    for i in BYTE_LEVEL(TEXT * 10)["input_ids"]:
        decoder.push(i)
        longest = max(longest, len(decoder._ids))
    assert longest <= 64


def test_without_a_tokenizer_there_is_no_text():
    assert streamed(None, [1, 2]) == ["", "", ""]


@pytest.mark.parametrize(
    ("stop", "given_out", "stopped"),
    [
        (("END",), "one END two", "one "),
        (("END", "\n\n"), "a\n\nEND", "a"),
        (("aab",), "aaab", "a"),
        (("xyz",), "none of it", None),
        ((), "all", None),
        (("abc", "bcd"), "abd abcd", "abd "),
    ],
)
def test_a_stop_string_is_found_however_the_text_comes(stop, given_out, stopped):
    for size in (1, 2, 3, 50):
        guard, found = StopGuard(stop), ""
        for start in range(0, len(given_out), size):
            found += guard.push(given_out[start : start + size])
            if guard.stopped:
                break
        assert guard.stopped == (stopped is not None)
        assert found + guard.flush() == (given_out if stopped is None else stopped)


def test_only_what_may_begin_a_stop_string_is_held():
    guard = StopGuard(("User:",))
    assert guard.push("hello Us") == "hello "
    assert guard.push("e it") == "Use it"


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (("<|turn|>",), "the tide"),
        (("<|turn|>user\n",), "the tidefell"),
        (("fell<|turn|>user",), "the tide"),
        (("<|end|>", "zz"), "the tidefell"),
        (("user",), "the tidefell"),
        (("tidefell",), "the "),
        (("<|turn|><|turn|>",), "the tidefelluser\n!"),
        ((), "the tidefelluser\n!"),
    ],
)
def test_a_stop_string_may_hold_special_tokens(stop, shown):
    ids = BYTE_LEVEL("the tide<|turn|>fell<|turn|>user\n<|end|>!")["input_ids"]
    guard, decoder, texts = StopGuard(stop), Decoder(BYTE_LEVEL), []
    for token in ids:
        texts += [] if guard.stopped else [guard.push(decoder.push(token), decoder.spelt(token))]
    text = "".join(texts) + ("" if guard.stopped else guard.flush())
    expected = {("<|end|>", "zz"): "the tidefelluser\n"}.get(stop, shown)
    assert text == expected
