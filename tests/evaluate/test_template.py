"""Templates filled in and cut into text and question."""

from __future__ import annotations

import pytest

from everlong.errors import InputError
from everlong.evaluate.template import SHORTEST, cut, filled


def test_the_context_ends_the_text_and_keeps_its_braces():
    fields = {"context": "{a: {b}}", "input": "what?", "more": 3}
    assert filled("Read {more}: {context}", fields, "t") == ("Read 3: {a: {b}}", "")
    assert filled("{context}{input}\nA:", fields, "t") == ("{a: {b}}", "what?\nA:")
    assert filled("A {{b}} {context} ${input}", fields, "t") == ("A {b} {a: {b}}", " $what?")


@pytest.mark.parametrize("template", ["no place", "{context} {question}", "{context} {0}", "{context} {"])
def test_a_template_that_cannot_be_filled_in_is_named(template):
    with pytest.raises(InputError, match=r"^file\.json: hotpotqa: the template .*; use the official file"):
        filled(template, {"context": "x", "input": "y"}, "file.json: hotpotqa")


@pytest.mark.parametrize(
    ("prompt", "template", "question"),
    [
        ("Read.\n\nx\n\nNow: y?\nA:", "Read.\n\n{context}\n\nNow: {input}\nA:", "\n\nNow: y?\nA:"),
        ("Now: x\n\nNow: y?", "{context}\n\nNow: {input}", "\n\nNow: y?"),
        ("code()\nNext:\n", "{context}Next:\n", "Next:\n"),
        ("one\n" + "q" * SHORTEST, "{context}\n{input}", "\n" + "q" * SHORTEST),
        ("one\n" + "q" * (SHORTEST - 1), "{context}\n{input}", "one\n" + "q" * (SHORTEST - 1)),
        (
            "one\ntwo\n\nQ: " + "q" * SHORTEST + "\n\nA:",
            "{context} Other: {input}",
            "\nQ: " + "q" * SHORTEST + "\n\nA:",
        ),
        ("", "{context}\n{input}", ""),
    ],
)
def test_a_filled_prompt_is_cut_behind_the_context_or_at_the_last_long_enough_line(prompt, template, question):
    assert cut(prompt, template) == (prompt.removesuffix(question) if question else prompt, question)
