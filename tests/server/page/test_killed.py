"""kill -9 of the server under an open page: it says what happened, and goes on with the next server."""

from __future__ import annotations

import pytest

from everlong import Sinks
from everlong.engine.sampling import Sampling
from tests.server.killed import Nursery, service
from tests.server.page.conftest import WAIT_MS, Script, answered, ask, until


@pytest.fixture(scope="module")
def nursery(tiny_model, tmp_path_factory):
    """A server that writes one short answer, and then one that does not end; killed, the next writes short ones."""
    store = tmp_path_factory.mktemp("sessions")
    script = Script(tiny_model.tokenizer)
    patch = pytest.MonkeyPatch()

    def pick(*given):
        # Known by what it writes behind, for each server is a process of its own.
        script.write(None if (store / "endless").exists() else "It rose.")
        return script.pick(given[4])

    patch.setattr(Sampling, "pick", pick)
    found = Nursery(lambda: service(tiny_model, Sinks(sinks=3, window=60), store, 1024))
    found.endless = store / "endless"
    yield found
    found.close()
    patch.undo()


def test_the_page_outlives_its_server(nursery, browser):
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(nursery.url)
    page.wait_for_selector("#model:not(:empty)")
    ask(page, "Did it rise?")
    assert answered(page) == "It rose."
    nursery.endless.touch()
    ask(page, "And then?")
    until(lambda: "gulls" in page.inner_text(".entry.assistant >> nth=-1 >> .body"))
    nursery.endless.unlink()
    nursery.kill()
    page.wait_for_selector(".entry .error")
    # What was written so far stays in sight, and so does the message.
    assert "The server was started anew while it wrote this." in page.inner_text(".entry .error")
    assert "gulls" in page.inner_text(".entry.assistant >> nth=-1 >> .body")
    assert page.inner_text(".entry.user.failed .body") == "And then?"
    page.click("text=Try again")
    until(lambda: page.locator(".entry .error").count() == 0)
    assert answered(page) == "It rose."
    # The next server has both turns, each once: the first was acknowledged, the second was asked again.
    page.reload()
    page.wait_for_selector(".entry.assistant >> nth=1")
    assert page.locator(".entry.user .body").all_inner_texts() == ["Did it rise?", "And then?"]
    assert [text.strip() for text in page.locator(".entry.assistant .body").all_inner_texts()] == 2 * ["It rose."]
    context.close()
