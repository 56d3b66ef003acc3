"""The files of the page: types, caching, what they may load, who may have them."""

from __future__ import annotations

import re

import pytest

from everlong.server.page_routes import _FOLDER

FILES = {"/": "text/html", "/page.css": "text/css", "/icon.svg": "image/svg+xml"}
SCRIPTS = sorted(_FOLDER.glob("*.js"))


def test_the_files_of_the_page(serve):
    client = serve(keys=("secret",))
    scripts = {f"/{script.name}": "text/javascript" for script in SCRIPTS}
    assert "/page.js" in scripts
    for path, kind in (FILES | scripts).items():
        answer = client.send("GET", path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        again = client.send("GET", path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.send("GET", path, headers={"Host": "evil.example"}).status_code == 403
    assert client.send("HEAD", "/").content == b""
    assert client.send("GET", "/v1/sessions").status_code == 401


@pytest.mark.parametrize("path", ["/page", "/page/../settings.py", "/settings.py", "/page.js/x", "/%2e%2e/app.py"])
def test_no_other_file_is_served(serve, path):
    assert serve().send("GET", path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere():
    html = (_FOLDER / "index.html").read_text()
    assert not re.search(r"\son\w+=|style=|<style|https?://", html)
    assert re.findall(r'(?:src|href)="([^"#]+)"', html) == ["icon.svg", "page.css", "page.js"]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|import\(", script()
    )
    assert "url(" not in (_FOLDER / "page.css").read_text()


def script(name="*.js"):
    """The text of all scripts of the page, or of some."""
    return "\n".join(path.read_text() for path in _FOLDER.glob(name))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_each_script_has_one_duty_and_takes_what_another_gives(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 300
    assert lines[0].startswith("// ")
    loaded = [line for line in lines if "import" in line.split("//")[0].split('"')[0]]
    assert all(re.fullmatch(r'import \{ [\w$, ]+ \} from "\./\w+\.js";', line) for line in loaded), loaded
    body = "\n".join(line for line in lines if line not in loaded)
    for names, other in re.findall(r'import \{ (.+) \} from "\./(\w+\.js)"', "\n".join(loaded)):
        for name in map(re.escape, names.split(", ")):
            given = rf"^export (async )?(function\*?|const|let|class) {name}(?![\w$])"
            assert re.search(given, script(other), re.MULTILINE), (name, other)
            assert re.search(rf"(?<![\w$.]){name}(?![\w$])", body), f"{name} is not used"


def test_a_proxy_may_change_the_host_of_the_page(serve):
    client = serve()
    headers = {"Origin": "https://example.org", "Host": "localhost"}
    assert client.send("POST", "/v1/sessions", json={}, headers=headers).status_code == 403
    own = headers | {"Sec-Fetch-Site": "same-origin"}
    assert client.send("POST", "/v1/sessions", json={}, headers=own).status_code == 200
    other = headers | {"Sec-Fetch-Site": "cross-site"}
    assert client.send("POST", "/v1/sessions", json={}, headers=other).status_code == 403
