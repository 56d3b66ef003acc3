"""The page in Debian's chromium, over a server whose tiny model writes what a test wants."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from everlong import Sinks
from everlong.engine.sampling import Sampling
from everlong.models.load import Loaded
from everlong.server.service import Service
from tests.server.conftest import documents
from tests.server.test_live import alive

CHROMIUM = os.environ.get("EVERLONG_CHROMIUM") or shutil.which("chromium") or ""
FILLER = "The tide rose and the gulls cried. "
WAIT_MS = 30_000


class Script:
    """What the model writes: a text, or without one a filler that never ends."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._filler = self._ids(FILLER)
        self.write("It rose.")

    def write(self, text: str | None) -> None:
        """Let the next answers be this text."""
        self._written = None if text is None else self._ids(text)

    def pick(self, written: Sequence[int]) -> int:
        """The next token behind those that were written."""
        if self._written is None:
            time.sleep(0.004)
            return self._filler[len(written) % len(self._filler)]
        return self._written[len(written)] if len(written) < len(self._written) else self._tokenizer.eos_token_id

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


class Served:
    """A server, its address and its script."""

    def __init__(self, url: str, service: Service, script: Script) -> None:
        self.url = url
        self.service = service
        self.script = script


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; it is closed with the tests of the file, for its event loop runs as long."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM:
        pytest.skip("needs chromium: apt-get install chromium, or EVERLONG_CHROMIUM=PATH")
    with playwright.sync_playwright() as opened:
        found = opened.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def shared(request: Any, tiny_model: Loaded, tmp_path_factory: Any) -> Iterator[Served]:
    """One server for the tests of a file, with the METHOD that it names."""
    method = getattr(request.module, "METHOD", Sinks(sinks=3, window=60))
    script = Script(tiny_model.tokenizer)
    patch = pytest.MonkeyPatch()
    # It is given: itself, logits, recent ids, a generator, the ids written so far.
    patch.setattr(Sampling, "pick", lambda *given: script.pick(given[4]))
    try:
        store = tmp_path_factory.mktemp("sessions")
        with alive(tiny_model, store, method, make_document=documents) as (url, service):
            yield Served(url, service, script)
    finally:
        patch.undo()


@pytest.fixture
def served(shared: Served) -> Served:
    """The server, with an answer that is short."""
    shared.script.write("It rose.")
    return shared


class Watch:
    """What a page did that it should not: errors, and requests to elsewhere."""

    def __init__(self, page: Any, url: str) -> None:
        self.found: list[str] = []
        page.on("console", lambda message: message.type in ("error", "warning") and self.found.append(message.text))
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("request", lambda request: request.url.startswith(url) or self.found.append(request.url))


@pytest.fixture
def tab(browser: Any, served: Served) -> Iterator[Any]:
    """The page in a browser that knows nothing; at its end there must have been no error."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    watch = Watch(page, served.url)
    page.watch = watch
    page.goto(served.url)
    page.wait_for_selector("#model:not(:empty)")
    yield page
    context.close()
    assert watch.found == []


def ask(page: Any, text: str) -> None:
    """Send a message, and see it drawn."""
    before = page.locator(".entry.user").count()
    page.fill("#say", text)
    page.keyboard.press("Enter")
    until(lambda: page.locator(".entry.user").count() > before)


def answered(page: Any) -> str:
    """The last answer, when it has ended."""
    page.wait_for_selector("#send:visible")
    return page.inner_text(".entry.assistant >> nth=-1 >> .body")


def until(true: Callable[[], Any]) -> Any:
    """What comes back once it is true. (Playwright's own waiting for a function needs eval, which the page forbids.)"""
    end = time.monotonic() + WAIT_MS / 1000
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.03)
    return found
