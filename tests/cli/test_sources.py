"""What is read twice and what is not: a source is the file that a path leads to, whatever was typed."""

from __future__ import annotations

import pytest

from everlong.session.library import Library

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
    assert {"a/README.md", "b/README.md"} <= {line.partition(":")[0] for line in found.splitlines()}


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
