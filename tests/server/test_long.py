"""A message that does not fit the window: read in pieces, its own passages brought back for its question."""

from __future__ import annotations

LONG = "\n\n".join(f"Gull number {n} cried over pier {n * 7}." for n in range(40))


def test_passages_of_a_long_message_come_back_for_its_question(serve, blocks):
    client = serve(blocks)
    answer = client.chat(f"{LONG}\n\nWhich gull cried over pier 63?").json()
    assert answer["usage"]["memory"]["reread_tokens"] > 0
    seen = answer["usage"]["memory"]["seen_tokens"]
    assert seen > answer["usage"]["prompt_tokens"] > 300
    again = client.chat(f"{LONG}\n\nWhich gull cried over pier 63?", answer["choices"][0]["message"]["content"], "And?")
    assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == seen


def test_a_short_message_is_read_at_once(serve, blocks):
    used = serve(blocks).chat("One.").json()["usage"]
    assert used["memory"]["reread_tokens"] == 0


def test_a_long_message_is_answered_whatever_its_form(serve, blocks):
    client = serve(blocks)
    for text in (LONG, LONG.replace("\n\n", " "), "Which gull?\n\n" + LONG.replace("\n\n", " ")):
        answer = client.chat(text, n=2, max_tokens=3, temperature=1)
        assert len(answer.json()["choices"]) == 2
