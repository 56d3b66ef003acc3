"""Answers on the page: streamed, stopped, and there again after a reload, a lost connection, an error, in two tabs."""

from __future__ import annotations

import pytest

from everlong.errors import BudgetError
from everlong.server.live import LiveAnswer
from tests.server.page.conftest import FILLER, answered, ask, until

pytestmark = pytest.mark.heavy(reason="what chromium took for all of them counts for the last, which closes it")
WRITTEN = ".entry.assistant >> nth=-1 >> .body"


def chars(page, more_than=0):
    """How long the answer is, once it is longer than so many characters."""
    page.wait_for_selector(WRITTEN)
    return until(lambda: max(0, len(page.inner_text(WRITTEN)) - more_than)) + more_than


def stop(page):
    page.click("#stop")
    return answered(page)


def test_an_answer_comes_and_is_there_again(tab, served):
    ask(tab, "Where did the tide go?")
    assert answered(tab) == "It rose."
    assert tab.inner_text("#title") == "Where did the tide go?"
    served.script.write("And fell.")
    ask(tab, "And then? <b>&amp;")
    assert answered(tab) == "And fell."
    said = tab.eval_on_selector_all(".entry .body", "all => all.map(node => node.innerText)")
    assert said == ["Where did the tide go?", "It rose.", "And then? <b>&amp;", "And fell."]
    tab.reload()
    tab.wait_for_selector(".entry.assistant >> nth=1")
    assert tab.eval_on_selector_all(".entry .body", "all => all.map(node => node.innerText)") == said
    words = "read 73 tokens; 63 in view; lost: 10 tokens that left the view and are not kept"
    until(lambda: tab.inner_text("#words") == words)


@pytest.mark.parametrize("by", ["button", "key"])
def test_an_answer_is_stopped_and_what_was_written_is_kept(tab, served, by):
    served.script.write(None)
    ask(tab, f"Go on by {by}.")
    chars(tab, 40)
    if by == "key":
        tab.keyboard.press("Escape")
    else:
        tab.click("#stop")
    text = answered(tab)
    assert text.startswith(FILLER.strip())
    assert "Stopped." in tab.inner_text(".entry.assistant >> .tools")
    tab.reload()
    tab.wait_for_selector(".entry.assistant")
    assert tab.inner_text(WRITTEN) == text


def test_an_answer_goes_on_over_a_reload_and_in_another_tab(tab, served):
    served.script.write(None)
    ask(tab, "Go on.")
    before = chars(tab)
    tab.reload()
    after = chars(tab, before)
    assert tab.locator(".entry.user").count() == 1
    other = tab.context.new_page()
    other.goto(tab.url)
    chars(other, after)
    text = stop(other)
    assert answered(tab) == text
    served.script.write("It is over.")
    ask(other, "And now?")
    until(lambda: tab.locator(".entry.assistant").count() == 2)
    assert [answered(page) for page in (tab, other)] == ["It is over."] * 2


def test_a_lost_connection_loses_nothing(tab, served, monkeypatch):
    whole = LiveAnswer.events
    cuts = []

    async def cut(self, after):
        async for event in whole(self, after):
            yield event
            if len(cuts) < 3 and event is not None and event["type"] == "live.text":
                cuts.append(after)
                return

    monkeypatch.setattr(LiveAnswer, "events", cut)
    served.script.write(None)
    ask(tab, "Tell it all.")
    until(lambda: len(cuts) == 3)
    chars(tab, cuts[-1])
    text = stop(tab)
    assert cuts[0] == 0  # a piece that was sent before a cut may be lost with it, and is sent again
    assert cuts == sorted(cuts)
    assert cuts[2] < len(text)
    assert (FILLER * len(text)).startswith(text)


def test_a_message_that_was_not_taken_is_sent_again(tab, served):
    refused = []

    def refuse(route):
        if route.request.method == "POST" and len(refused) < 1:
            refused.append(route.request.post_data)
            route.abort()
        else:
            route.continue_()

    tab.route("**/live*", refuse)
    ask(tab, "Are you there?")
    assert answered(tab) == "It rose."
    assert len(refused) == 1
    assert tab.locator(".entry.user").count() == 1
    # What a browser says of the request that was refused.
    assert len(tab.watch.found) == 1
    tab.watch.found.clear()


def test_an_error_is_told_and_the_message_is_tried_again(tab, served, monkeypatch):
    def full(*_):
        raise BudgetError("disk_budget=1: full; give more")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(served.service.writer, "turn", full)
        ask(tab, "Does it fit?")
        tab.wait_for_selector(".error")
        tab.reload()
        tab.wait_for_selector(".error")
        assert "disk_budget=1: full; give more" in tab.inner_text(".error")
        assert tab.inner_text(".entry.user .body") == "Does it fit?"
    tab.click("text=Try again")
    tab.wait_for_selector(".error", state="detached")
    assert answered(tab) == "It rose."
    assert tab.locator(".entry.user").count() == 1


def test_what_is_typed_outlives_a_reload(tab):
    tab.fill("#say", "Half a question")
    tab.reload()
    tab.wait_for_selector("#model:not(:empty)")
    until(lambda: tab.input_value("#say") == "Half a question")


def test_texts_are_shown_as_texts(tab, served):
    hostile = "<img src=x> <b>"
    served.script.write(f"# T\n{hostile}\n```js\n<i>")
    ask(tab, hostile)
    answered(tab)
    assert tab.inner_text(".entry.user .body") == hostile
    body = tab.locator(".entry.assistant .body")
    assert [body.locator(tag).inner_text() for tag in ("h1", "p", "pre code")] == ["T", hostile, "<i>"]
    assert tab.locator("#log img, #log b, #log i").count() == 0
    policy = "try { document.body.innerHTML = '<p>'; 'written' } catch (error) { error.name }"
    assert tab.evaluate(policy) == "TypeError"
    tab.watch.found.clear()
