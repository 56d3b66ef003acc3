"""pin, unpin, forget, read --reread and compact: what they change, what they say, what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SMALL = ["sinks=2", "window=24", "block=8", "top_k=4", "exec_chunk=32", "pool=8"]
FIELDS = [part for field in SMALL for part in ("-o", field)]


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def run(everlong, tiny, store):
    """Runs a command on the store; the model is given where one is needed."""

    def call(verb, *arguments):
        more = FIELDS if verb == "read" else []
        more += [] if verb == "sessions" else ["--model", tiny]
        return everlong(verb, *arguments, "--store", store, *more)

    return call


@pytest.fixture(scope="module")
def read_before(run_once, tiny, tmp_path_factory) -> Path:
    """A store whose session has read three texts."""
    folder = tmp_path_factory.mktemp("before")
    done = run_once("read", *texts(folder), "--store", folder / "store", "--model", tiny, *FIELDS)
    assert done.code == 0, done.err
    return folder / "store"


@pytest.fixture
def three(tmp_path) -> list[Path]:
    """Three texts."""
    return texts(tmp_path)


def texts(folder: Path) -> list[Path]:
    paths = [folder / f"{name}.txt" for name in "abc"]
    for path, text in zip(paths, ("The tide rose. ", "Gulls cried over the harbour. ", "Nobody knew. "), strict=True):
        path.write_text(text * 25)
    return paths


def show(run):
    return run("sessions", "show", "default", "--json").json


def ask(run):
    return run("ask", "What came?", "--raw", "--max-new-tokens", "8", "--json", "--top", "999").json


def test_pin_show_fork_unpin(run, three):
    run("read", *three)
    made = run("pin", "--source", three[1], "--start", "30", "--end", "40", "--json")
    assert made.code == 0, made.err
    assert made.json["first"] < made.json["end"]
    assert (made.json["always"], made.json["keep"]) == (True, True)
    other = run("pin", "--tokens", "20:22", "--no-always")
    assert other.code == 0, other.err
    assert "tokens 20:22 are never given up" in other.out
    run("sessions", "fork", "default", "twin")
    pins = show(run)["pins"]
    assert [(p["first"], p["always"]) for p in pins] == [(20, False), (made.json["first"], True)]
    assert run("sessions", "show", "twin", "--json").json["pins"] == pins
    assert run("unpin", "--tokens", "20:22", "--json").json["unpinned"] == 1
    assert "1 pins taken away, 0 left" in run("unpin", "--source", three[1]).out
    assert show(run)["pins"] == []


def test_forget_drops_and_compact_makes_room(run, three, store):
    tokens = run("read", *three, "--json").json["tokens"]
    found = run("forget", "--source", three[1], "--json")
    assert found.code == 0, found.err
    assert found.json["blocks"] * 8 == found.json["tokens"] + found.json["neighbour_tokens"]
    assert found.json["neighbour_tokens"] > 0
    assert str(three[1]) not in {c["source"] for c in ask(run)["citations"]}
    assert show(run)["tokens"] == tokens
    assert len(show(run)["forgotten"]) == 1
    again = run("forget", "--source", three[1])
    assert (again.code, again.err.count("\n")) == (2, 1)
    answer = ask(run)["text"]
    size = sum(p.stat().st_size for p in (store / "blocks").iterdir())
    done = run("sessions", "compact", "default", "--json").json
    assert (
        done["after_bytes"]
        == sum(p.stat().st_size for p in (store / "blocks").iterdir())
        < size
        == done["before_bytes"]
    )
    assert "KiB before" in run("sessions", "compact", "default").out
    assert ask(run)["text"] == answer
    assert run("sessions", "verify", "default").code == 0
    assert run("read", *three, "--json").json["read_tokens"] > 0
    assert str(three[1]) in {s["name"] for s in show(run)["sources"] if s["digest"] != "gone"}


def test_what_cannot_be_forgotten_in_place_is_forgotten_by_reading_again(run, three):
    tokens = run("read", *three, "--json").json["tokens"]
    refused = run("forget", "--source", three[2])
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--reread" in refused.err
    done = run("forget", "--source", three[2], "--reread", "--json")
    assert done.code == 0, done.err
    assert done.json["tokens"] == show(run)["tokens"] < tokens
    assert [s["name"] for s in show(run)["sources"]] == [str(p) for p in three[:2]]
    assert "read again without it" in run("forget", "--source", three[0], "--reread").out
    assert len(run("sessions", "list", "--json").json) == 1


def test_a_changed_file_is_read_alone_or_with_what_follows(run, three, tmp_path):
    tokens = run("read", *three, "--json").json["tokens"]
    three[1].write_text("It went home. " * 30)
    noted = run("read", *three)
    assert "b.txt: has changed; what it was is dropped" in noted.err
    assert noted.err.count("read already") == 2
    assert show(run)["tokens"] > tokens
    three[1].write_text("It came back. " * 30)
    again = run("read", *three, "--reread")
    assert again.code == 0, again.err
    assert again.err.count("read already") == 3
    assert [s["name"] for s in show(run)["sources"]] == [str(p) for p in (three[0], three[2], three[1])]
    assert show(run)["dropped_blocks"] == []
    assert "0 tokens read" in run("read", *three, "--reread").err


def test_a_binary_file_leaves_no_session(run, three, tmp_path, store):
    binary = tmp_path / "image.txt"
    binary.write_bytes(b"\x89PNG\0\0\0")
    for files in ([binary], [*three, binary]):
        ended = run("read", *files)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "a binary file" in ended.err
        assert not store.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pin"], "give either --source FILE or --tokens A:B"),
        (["pin", "--tokens", "5"], "expected A:B"),
        (["pin", "--tokens", "5:7", "--start", "3"], "without --start and --end"),
        (["pin", "--tokens", "5:99999"], "expected a start and a later end"),
        (["pin", "--tokens", "2:120"], "top_k=4 have room"),
        (["pin", "--tokens", "9:12", "--no-always", "--no-keep"], "neither always nor keep"),
        (["unpin", "--source", "other.txt"], "was not read into this session"),
        (["forget", "--tokens", "0:9"], "among the sinks"),
        (["forget", "--tokens", "9:12", "--session", "nobody"], "does not exist"),
        (["sessions", "compact", "nobody"], "does not exist"),
    ],
)
def test_mistakes_get_one_line_and_exit_2(run, store, read_before, arguments, message):
    shutil.copytree(read_before, store)
    ended = run(*arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_a_damaged_state_is_named_and_repaired(run, three, store):
    run("read", *three)
    run("read", *three)
    path = max(store.rglob("state-*"))
    path.write_bytes(path.read_bytes()[:-9] + b"different")
    assert run("ask", "What came?").code == 2
    found = run("sessions", "verify", "default")
    assert found.code == 2
    assert str(path) in found.out
    repaired = run("sessions", "verify", "default", "--repair")
    assert repaired.code == 0
    assert "back at the checkpoint of" in repaired.out
    assert run("ask", "What came?").code == 0
