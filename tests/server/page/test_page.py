"""What the page shows and does beside answers: files, the memory, sessions, keys, safe texts, small screens."""

from __future__ import annotations

import pytest

from everlong import Blocks, Sinks
from tests.server.conftest import SMALL
from tests.server.page.conftest import Watch, answered, ask, until
from tests.server.test_live import alive

pytestmark = pytest.mark.heavy(reason="what chromium took for all of them counts for the last, which closes it")
METHOD = Blocks(**SMALL)
TEXT = "The tide rose over the harbour and the gulls cried. " * 6
DROP = """text => {
  const data = new DataTransfer();
  data.items.add(new File([text], "dropped.txt", { type: "text/plain" }));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""
DRAW = """async texts => {
  const { Rendered } = await import("/markdown.js");
  return texts.map(text => {
    const node = document.createElement("div");
    const rendered = new Rendered(node);
    const begun = performance.now();
    for (const part of [text.slice(0, text.length / 2), text]) rendered.update(part);
    return { html: node.innerHTML, text: node.innerText, ms: performance.now() - begun };
  });
}"""


def upload(tab, name="tide.txt", text=TEXT):
    tab.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": text.encode()})
    tab.wait_for_selector(f"text=Read {name}")  # a short one is no longer among the uploads before it is looked for
    tab.wait_for_selector("#uploads li", state="detached")


def names(tab):
    return tab.eval_on_selector_all("#sessions .name", "all => all.map(node => node.innerText)")


def test_a_file_is_read_asked_about_and_looked_up(tab):
    upload(tab)
    tab.wait_for_selector(".entry.document")
    assert tab.inner_text("#title") == "tide.txt"
    assert "Read tide.txt" in tab.inner_text(".entry.document")
    ask(tab, "Where did the tide rise?")
    assert answered(tab) == "It rose."
    tab.wait_for_selector("#strip button")
    assert "nothing lost. The last answer read" in tab.inner_text("#words")
    tab.hover("#strip button")
    assert tab.inner_text("#tip strong").startswith("tide.txt")
    assert "the tide rose over" in tab.inner_text("#tip").lower()
    tab.focus("#strip button")
    tab.keyboard.press("Enter")
    marked = tab.inner_text("#source mark")
    assert marked.strip() in TEXT
    whole = tab.inner_text("#source-body")
    assert whole.strip() == TEXT.strip()
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#source")
    tab.click(".cites button")
    assert tab.inner_text("#source-title") == "tide.txt"


def test_a_file_is_dropped_and_one_that_holds_nothing_is_refused(tab):
    tab.evaluate(DROP, "The gulls cried.")
    tab.wait_for_selector("text=Read dropped.txt")
    tab.set_input_files("#file", {"name": "empty.txt", "mimeType": "text/plain", "buffer": b""})
    tab.wait_for_selector("#uploads .failed")
    assert "empty.txt is empty" in tab.inner_text("#uploads")
    assert tab.locator("#uploads button").inner_text() == "Go on"
    tab.watch.found.clear()


def test_sessions_are_searched_renamed_forked_and_deleted(tab):
    for text in ("A gull cried", "A whale sang", "A/b: ../x"):
        tab.click("#new")
        ask(tab, text)
        answered(tab)
    until(lambda: {"A gull cried", "A whale sang", "A b: .. x"} <= set(names(tab)))
    tab.click("#title")
    tab.keyboard.press("/")
    tab.keyboard.type("whale a")
    until(lambda: names(tab) == ["A whale sang"])
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=A whale sang >> visible=true")
    until(lambda: tab.inner_text("#title") == "A whale sang")
    tab.click("#actions summary")
    tab.click("#rename")
    tab.fill("#ask-value", "Whales")
    tab.keyboard.press("Enter")
    until(lambda: tab.inner_text("#title") == "Whales")
    tab.click("#actions summary")
    tab.click("#fork")
    until(lambda: tab.inner_text("#title").startswith("Whales-"))
    assert tab.inner_text(".entry.user .body") == "A whale sang"
    tab.click("#actions summary")
    tab.click("#delete")
    tab.click("#ask-ok")
    until(lambda: tab.inner_text("#title") == "New conversation")
    tab.fill("#search", "whales")
    until(lambda: names(tab) == ["Whales"])


def test_a_turn_is_taken_back_where_the_server_can(tab):
    asked = []
    there = {}

    def paths(route):
        route.fulfill(json={"paths": there})

    def rewind(route):
        asked.append(route.request.post_data_json)
        route.fulfill(json={})

    tab.route("**/openapi.json", paths)
    tab.route("**/rewind", rewind)
    tab.reload()
    for text in ("Zero?", "One?", "Two?"):
        ask(tab, text)
        answered(tab)
    assert tab.locator(".rewind:visible").count() == 0
    there["/v1/sessions/{name}/rewind"] = {}
    tab.reload()
    tab.wait_for_selector(".rewind:visible")
    assert tab.locator(".rewind:visible").count() == 2
    tab.click(".entry.user >> nth=1 >> .rewind")
    until(lambda: tab.input_value("#say") == "One?")
    tab.click("#actions summary")
    tab.click("#rewind")
    until(lambda: asked == [{"turns": 2}, {"turns": 1}])


def test_markdown(tab):
    cases = {
        "a *b* **c** ~~d~~": "<p>a <em>b</em> <strong>c</strong> <s>d</s></p>",
        "`e*f*` snake_case_name 2*3*4": "<p><code>e*f*</code> snake_case_name 2<em>3</em>4</p>",
        "- a\n- b\n  3. c\n  4. d\n\n- e": "<ul><li>a</li><li>b"
        '<ol start="3"><li>c</li><li>d</li></ol></li><li>e</li></ul>',
        "> q\n> r\n\n---\n### h": "<blockquote><p>q<br>r</p></blockquote><hr><h3>h</h3>",
        "a\\*b\\* & <c>": "<p>a*b* &amp; &lt;c&gt;</p>",
        "[a](javascript:b) [c](/d) ![e](data:f)": "<p>[a](javascript:b) [c](/d) ![e](data:f)</p>",
        "**open and `open": "<p>**open and `open</p>",
    }
    found = tab.evaluate(DRAW, list(cases))
    assert [one["html"] for one in found] == list(cases.values())
    table, link, code = tab.evaluate(
        DRAW, ["|a|b|\n|-|-|\n|1|`2`|\nafter", "see https://x.example/a_(b). And <https://x.example>", "```py\nx = 1\n"]
    )
    assert "<th>a</th><th>b</th>" in table["html"]
    assert "<td>1</td><td><code>2</code></td>" in table["html"]
    assert 'href="https://x.example/a_(b"' in link["html"]
    assert "<code>x = 1\n</code>" in code["html"]
    hostile = [
        "*" * 20000,
        "[" * 20000,
        "`" * 20001 + "a",
        "> " * 5000,
        "- " * 5000,
        "_a*b" * 5000,
        "|" * 9000 + "\n|-|",
    ]
    hostile += ["*a **b " * 4000, "\n".join(" " * n + "- x" for n in range(200)), "# " + " #" * 9000, "`a``" * 6000]
    for one in tab.evaluate(DRAW, hostile):
        assert one["ms"] < 3000


def test_small_dark_and_without_a_mouse(tab):
    ask(tab, "x" * 200)
    answered(tab)
    tab.set_viewport_size({"width": 360, "height": 640})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert not tab.is_visible("#search")
    tab.click("#open-side")
    tab.wait_for_selector("#search:visible")
    assert tab.get_attribute("#open-side", "aria-expanded") == "true"
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#search", state="hidden")
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 23, 22)"
    named = "n.textContent.trim() || n.ariaLabel || n.labels?.length || n.title"
    unnamed = f"all => all.filter(n => !({named})).map(n => n.outerHTML)"
    assert tab.eval_on_selector_all("button, input:not([hidden]), textarea, summary", unnamed) == []
    tab.keyboard.press("Alt+n")
    until(lambda: tab.inner_text("#title") == "New conversation")


def test_a_key_is_asked_for_and_kept(browser, tiny_model, tmp_path):
    with alive(tiny_model, tmp_path, Sinks(sinks=3, window=60), keys=("secret",)) as (url, _):
        context = browser.new_context()
        page = context.new_page()
        watch = Watch(page, url)
        page.goto(url)
        for given in ("wrong", "secret"):
            page.wait_for_selector("#ask-value:visible")
            page.fill("#ask-value", given)
            page.keyboard.press("Enter")
            if given == "wrong":
                until(lambda: "not accepted" in page.inner_text("#ask-error"))
        page.wait_for_selector("#model:not(:empty)")
        page.reload()
        page.wait_for_selector("#model:not(:empty)")
        context.close()
    assert {text.partition(" (")[0] for text in watch.found} == {
        "Failed to load resource: the server responded with a status of 401"
    }
