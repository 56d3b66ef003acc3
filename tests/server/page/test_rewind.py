"""A turn is taken back on the page, by the server's own route."""

from __future__ import annotations

import pytest

from tests.server.page.conftest import answered, ask, until

pytestmark = pytest.mark.heavy(reason="chromium is started for it")


def test_a_turn_is_taken_back(tab, served):
    for text in ("One?", "Two?", "Three?"):
        ask(tab, text)
        answered(tab)
    tab.click(".entry.user >> nth=1 >> .rewind")
    until(lambda: tab.input_value("#say") == "Two?")
    said = tab.eval_on_selector_all(".entry .body", "all => all.map(node => node.innerText)")
    assert said == ["One?", "It rose."]
    served.script.write("It fell.")
    tab.keyboard.press("Enter")
    until(lambda: tab.locator(".entry.user").count() == 2)
    assert answered(tab) == "It fell."
