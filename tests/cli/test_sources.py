"""What is read twice and what is not: a source is the file that a path leads to, whatever was typed."""

from __future__ import annotations

import pytest

from everlong.library.library import Library

FIELDS = [part for f in ("sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8") for part in ("-o", f)]


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def read(everlong, tiny, store):
    def call(*arguments, stdin=b""):
        return everlong("read", *arguments, "--store", store, "--model", tiny, *FIELDS, stdin=stdin)

    return call


@pytest.fixture
def sources(store):
    """The names, digests and first tokens of what a session holds."""
    return lambda: Library(store).sources(Library(store).entry("default"))


@pytest.fixture
def folders(tmp_path):
    """Two folders with a README.md in each."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# Folder {name}\n\n" + f"What stands in {name} is this. " * 12)
    return tmp_path


def test_files_of_the_same_name_in_two_folders_are_two_sources(
    everlong, read, sources, folders, tiny, store, monkeypatch
):
    tokens = 0
    for name in ("a", "b"):
        monkeypatch.chdir(folders / name)
        done = read("README.md", "--json")
        assert done.code == 0, done.err
        assert done.json["report"]["dropped_tokens"] == 0
        tokens += done.json["read_tokens"]
        assert done.json["tokens"] == tokens
    assert [s.name for s in sources()] == [str(folders / name / "README.md") for name in ("a", "b")]
    assert all(s.done and s.digest != "gone" for s in sources())
    monkeypatch.chdir(folders)
    found = everlong("search", "stands", "--store", store, "--model", tiny).out
    assert {"a/README.md", "b/README.md"} <= {line.partition(",")[0] for line in found.splitlines()}


@pytest.mark.parametrize(
    "typed", ["{whole}", "./README.md", "x/../README.md", "../a/README.md", "link.md", "../linked/README.md"]
)
def test_a_file_is_read_once_whatever_leads_to_it(read, folders, monkeypatch, typed):
    monkeypatch.chdir(folders / "a")
    (folders / "a" / "x").mkdir()
    (folders / "a" / "link.md").symlink_to("README.md")
    (folders / "linked").symlink_to(folders / "a")
    tokens = read("README.md", "--json").json["tokens"]
    again = read(typed.format(whole=folders / "a" / "README.md"), "--json").json
    assert (again["tokens"], again["read_tokens"]) == (tokens, 0)


def test_several_spellings_in_one_command_are_one_source(read, sources, folders, monkeypatch):
    monkeypatch.chdir(folders / "a")
    (folders / "a" / "link.md").symlink_to("README.md")
    assert read("README.md", "./README.md", folders / "a" / "README.md", "link.md", "*.md", ".").code == 0
    assert len(sources()) == 1


def test_a_source_is_forgotten_by_any_path_and_not_by_an_ending_of_two(
    everlong, read, sources, folders, tiny, store, monkeypatch
):
    read(folders / "a" / "README.md", folders / "b" / "README.md")
    monkeypatch.chdir(folders)
    forget = ["forget", "--store", store, "--model", tiny, "--reread", "--source"]
    refused = everlong(*forget, "README.md")
    assert refused.code == 2
    assert "give more of the path" in refused.err
    assert refused.err.count("\n") == 1
    assert everlong(*forget, "a/README.md").code == 0
    assert [s.name for s in sources()] == [str(folders / "b" / "README.md")]


def as_older(store, names: dict[str, str]) -> None:
    """Make the sources of a store what an older version called them, with digests that have no sizes."""
    with Library(store).database() as db:
        for name, typed in names.items():
            db.execute("UPDATE sources SET name = ?, digest = substr(digest, 1, 64) WHERE name = ?", (typed, name))


@pytest.mark.parametrize("typed", ["README.md", "a/README.md", "{a}/x/../README.md"])
def test_a_session_of_an_older_version_goes_on(read, sources, folders, store, monkeypatch, typed):
    a, b = (folders / name / "README.md" for name in ("a", "b"))
    tokens = read(a, "--json").json["tokens"]
    as_older(store, {str(a): typed.format(a=folders / "a")})
    again = read(a, "--json").json
    assert (again["tokens"], again["read_tokens"]) == (tokens, 0)
    monkeypatch.chdir(folders / "b")
    other = read("README.md", "--json")
    assert other.json["read_tokens"] > 0
    assert other.json["report"]["dropped_tokens"] == 0
    assert [s.name for s in sources()] == [typed.format(a=folders / "a"), str(b)]


def test_a_changed_file_of_an_older_session_with_its_whole_path_is_read_anew(read, sources, folders, store):
    a = folders / "a" / "README.md"
    read(a)
    as_older(store, {str(a): str(folders / "a" / ".." / "a" / "README.md")})
    a.write_text("It says something else. " * 20)
    done = read(a)
    assert "README.md: has changed" in done.err
    assert [s.digest == "gone" for s in sources()] == [True, False]


def test_what_is_piped_in_is_a_source_of_its_own(everlong, read, sources, tiny, store):
    texts = [f"Text {n} says that the tide rose. ".encode() * 12 for n in (1, 2)]
    first = read("-", "--json", stdin=texts[0])
    assert first.code == 0, first.err
    second = read("-", "--json", stdin=texts[1]).json
    assert second["report"]["dropped_tokens"] == 0
    assert read("-", "--json", stdin=texts[0]).json["read_tokens"] == 0
    names = [s.name for s in sources()]
    assert len(set(names)) == 2
    assert all(name.startswith("stdin:") for name in names)
    forget = ["forget", "--store", store, "--model", tiny, "--reread", "--source", names[0]]
    assert everlong(*forget).code == 0
    assert [s.name for s in sources()] == names[1:]


@pytest.mark.parametrize(("content", "message"), [(b"", "-: empty"), (b"a\0b", "-: a binary file")])
def test_what_is_piped_in_and_is_no_text_is_refused(read, store, content, message):
    refused = read("-", stdin=content)
    assert refused.code == 2
    assert message.replace("-", "stdin") in refused.err
    assert refused.err.count("\n") == 1
    assert not store.exists()


def test_a_page_that_is_piped_in_is_read_as_one(everlong, read, tiny, store):
    pytest.importorskip("trafilatura", reason="needs the extra everlong[documents]")
    page = "<!DOCTYPE html><nav><a href=a>Home</a></nav><h1>The tide</h1>" + "<p>It <b>rose</b> again.</p>" * 20
    assert read("-", stdin=page.encode()).code == 0
    found = everlong("search", "rose", "--store", store, "--model", tiny, "--json").json
    assert any("It rose again." in passage["text"] for passage in found)
    assert not any("Home" in passage["text"] for passage in found)


def test_an_encoding_is_said_guessed_and_overruled(everlong, read, tiny, store, tmp_path):
    text = "Größe und Übermut standen am Ufer der Förde. " * 12
    (tmp_path / "a.txt").write_bytes(text.encode("latin-1"))
    done = read(tmp_path / "a.txt", "--quiet")
    assert done.code == 0
    assert "a.txt: is not UTF-8; read as cp1252, a guess (--encoding NAME overrules it)" in done.err
    (tmp_path / "b.txt").write_bytes(text.encode("cp037"))
    assert read(tmp_path / "b.txt", "--encoding", "cp037").code == 0
    found = everlong("search", "Größe", "--top", 9, "--store", store, "--model", tiny, "--json").json
    assert {p["source"] for p in found} == {str(tmp_path / name) for name in ("a.txt", "b.txt")}
    refused = read(tmp_path / "a.txt", "--encoding", "utf-9")
    assert refused.code == 2
    assert refused.err.count("\n") == 1


def test_what_was_skipped_is_counted(read, folders):
    (folders / "a" / "image.png").write_bytes(b"\x89PNG")
    done = read(folders / "a", "--json").json
    assert done["skipped"] == {".png": 1}
    assert "1 skipped (1 .png); a file that is named is read all the same" in read(folders / "a").err


@pytest.mark.parametrize("between", [False, True])
def test_of_a_log_that_grew_only_what_was_added_is_read(everlong, read, sources, tmp_path, tiny, store, between):
    log, line = tmp_path / "a.log", "The pump of harbour {} was started at noon.\n"
    log.write_text("# Log\n\n" + "".join(line.format(n) for n in range(12)))
    tokens = read(log, "--json").json["tokens"]
    if between:
        (tmp_path / "other.txt").write_text("Another text of some length. " * 9)
        tokens = read(tmp_path / "other.txt", "--json").json["tokens"]
    before = len(log.read_text())
    with log.open("a") as file:
        file.write("# Night ü\n\n" + "".join(line.format(n) for n in range(40, 46)))
    done = read(log)
    assert "a.log: has grown; what was added is read" in done.err
    added = read(log, "--json").json
    assert 0 < added["tokens"] - tokens < tokens
    assert added["read_tokens"] == added["report"]["dropped_tokens"] == 0
    parts = [s for s in sources() if s.name == str(log)]
    assert [s.marks[0][1] for s in parts] == [0, before]
    text = log.read_text()
    found = everlong("search", "harbour 44", "--top", 1, "--store", store, "--model", tiny, "--json").json[0]
    assert text[found["start"] : found["end"]] == found["text"]
    assert "44" in found["text"]
    pin = everlong("pin", "--source", log, "--start", 30, "--end", 90, "--no-always", "--store", store, "--model", tiny)
    assert pin.code == 0, pin.err
    assert everlong("pin", "--source", log, "--store", store, "--model", tiny).code == 2
    with log.open("a") as file:
        file.write(line.format(99))
    assert read(log, "--json").json["report"]["dropped_tokens"] == 0
    log.write_text(line.format(7) * 20)
    assert "a.log: has changed" in read(log).err
    assert [s.digest == "gone" for s in sources() if s.name == str(log)] == [True, True, True, False]


def test_what_grew_is_forgotten_whole_and_read_again_whole(everlong, read, sources, tmp_path, tiny, store):
    log = tmp_path / "a.log"
    other = tmp_path / "other.txt"
    log.write_text("The pump was started at noon.\n" * 9)
    other.write_text("Another text of some length. " * 9)
    read(log, other)
    with log.open("a") as file:
        file.write("It was stopped at night.\n" * 9)
    read(log)
    assert len(sources()) == 3
    log.write_text("A new log begins here today.\n" * 12)
    assert read(log, "--reread").code == 0
    assert [s.name for s in sources()] == [str(log), str(other)]
    with log.open("a") as file:
        file.write("It was stopped at night.\n" * 9)
    read(log)
    assert everlong("forget", "--source", log, "--reread", "--store", store, "--model", tiny).code == 0
    assert [s.name for s in sources()] == [str(other)]


def test_a_log_that_grows_in_another_encoding_is_read_anew(read, tmp_path):
    log = tmp_path / "a.log"
    text = "今天天气很好，我们一起去公园散步吧。他说这本书很有意思。\n"
    log.write_bytes(text.encode("gb18030"))
    read(log)
    log.write_bytes(log.read_bytes() + text.encode() * 60)
    assert "a.log: has changed" in read(log).err
