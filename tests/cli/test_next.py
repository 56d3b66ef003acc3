"""Commands that are printed are typed as they stand: in another folder, with names that a shell would take apart."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from everlong.library.library import Library
from tests.models.tiny import save_folder

SMALL = ["sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8"]
FIELDS = [part for field in SMALL for part in ("-o", field)]
NAME = "bom's book; $(x)"


def commands(said):
    """The commands that `said` names, as a shell would take them apart."""
    lines = [line.partition("Next: ")[2] or line for line in said.splitlines()]
    found = [line for line in lines if line.startswith("everlong ")]
    found += [part for line in lines for part in line.split("`")[1::2] if part.startswith("everlong ")]
    return [shlex.split(line)[1:] for line in found]


@pytest.fixture
def read(everlong, tmp_path, monkeypatch):
    """A session of a model that is not the default, in bfloat16, read in its folder; then another folder is entered."""
    save_folder(tmp_path / "a model")
    monkeypatch.chdir(tmp_path)
    Path("a text.txt").write_text("In the beginning was the word. Gulls cried over the pier. " * 20)
    store = str(tmp_path / "a store")
    where = ["--session", NAME, "--store", store, "-m", "a model", "--dtype", "bfloat16"]
    done = everlong("read", "a text.txt", *where, *FIELDS)
    assert done.code == 0, done.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return done


def test_what_an_answer_prints_runs(everlong, read):
    (ask,) = commands(read.err)
    for option in ("--cite", "--keep"):
        answered = everlong(*ask[:1], "--max-new-tokens", "2", *ask[1:])
        assert answered.code == 0, answered.err
        (ask,) = commands(answered.err)
        assert option in ask
    assert everlong(*ask[:1], "--max-new-tokens", "2", *ask[1:]).code == 0


def test_what_read_search_and_pin_print_runs(everlong, read, tmp_path):
    store = str(tmp_path / "a store")
    (ask,) = commands(read.err)
    assert ask[0] == "ask"
    assert everlong(*ask, "--max-new-tokens", "2").code == 0
    here = ["--session", NAME, "--store", store]
    for words in ("gulls pier", "-o 'pier'"):
        found = everlong("search", *here, "--", words)
        assert found.code == 0, found.err
        (ask,) = commands(found.err)
        assert words in ask
        # In front, so that it stands before a `--` too.
        assert everlong("ask", "--max-new-tokens", "2", *ask[1:]).code == 0
    pinned = everlong("pin", *here, "--tokens", "40:44")
    assert pinned.code == 0, pinned.err
    (unpin,) = commands(pinned.err)
    assert unpin[0] == "unpin"
    assert "1 pins taken away" in everlong(*unpin).out
    assert everlong("forget", *here, "--tokens", "60:64").code == 0
    assert everlong("forget", *here, "--tokens", "80:84", "--reread").code == 0
    text = tmp_path / "another text.txt"
    text.write_text("And then the tide fell. " * 9)
    more = everlong("read", text, *here)
    assert more.code == 0, more.err
    (ask,) = commands(more.err)
    assert everlong(*ask, "--max-new-tokens", "2").code == 0


def test_forks_archives_and_adopted_sessions_know_their_model_too(everlong, read, tmp_path):
    store = tmp_path / "a store"
    library = Library(store)
    library.fork(NAME, "twin")
    library.export(NAME, tmp_path / "one.tar")
    library.take(tmp_path / "one.tar", "third")
    for path in store.glob("everlong.db*"):
        path.unlink()
    lost = everlong("ask", "What?", "--session", "twin", "--store", store)
    assert lost.code == 2
    (adopt,) = commands(lost.err)
    assert adopt[:2] == ["sessions", "adopt"]
    adopted = everlong(*adopt)
    assert adopted.code == 0, adopted.out
    for name in (NAME, "twin", "third"):
        assert everlong("ask", "What?", "--session", name, "--store", store, "--max-new-tokens", "2").code == 0
    assert everlong(*adopt).out == "Every session here has its name.\n"


def test_a_model_that_is_given_is_taken(everlong, read, tmp_path):
    here = ["--session", NAME, "--store", tmp_path / "a store"]
    other = save_folder(tmp_path / "other", seed=5)
    refused = everlong("ask", "What?", *here, "--model", other, "--dtype", "bfloat16")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "another model weights" in refused.err
    shutil.rmtree(tmp_path / "a model")
    gone = everlong("ask", "What?", *here)
    assert (gone.code, gone.err.count("\n")) == (2, 1)
    assert str(tmp_path / "a model") in gone.err


def test_a_session_of_another_method_is_read_on_without_naming_it(everlong, tiny, text_file, tmp_path):
    where = ["--store", tmp_path / "store", "--session", "s"]
    assert everlong("read", text_file, *where, "--model", tiny, "--method", "sinks", "-o", "window=40").code == 0
    text_file.with_name("b.txt").write_text("And then the tide fell. " * 9)
    more = everlong("read", text_file.with_name("b.txt"), *where, "--json")
    assert more.code == 0, more.err
    assert "sinks" in more.json["report"]["method"]
    refused = everlong("read", text_file.with_name("b.txt"), *where, "--method", "blocks")
    assert refused.code == 2
    assert "was made with sinks" in refused.err


def test_an_empty_session_answers_nothing(everlong, tiny, tmp_path):
    Library(tmp_path / "a store").create("none yet", tiny, {}, {"name": "sinks", "fields": {}})
    where = ["--session", "none yet", "--store", tmp_path / "a store"]
    ended = everlong("ask", "Who?", *where, "--model", tiny)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "holds nothing to ask about; read into it first: everlong read FILE --session 'none yet'" in ended.err


def test_what_reading_takes_is_said_before_it_begins(everlong, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("everlong.cli.plan.FORETOLD_BYTES", 1000)
    text = tmp_path / "text.txt"
    text.write_text("It goes on and on. " * 60)
    where = ["--store", tmp_path / "store", "--model", tiny, *FIELDS]
    full = everlong("read", text, *where, "--dry-run", "--json").json
    with monkeypatch.context() as patch:
        free = full["bytes"]["disk"] - 1
        patch.setattr("everlong.cli.plan.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, free))
        refused = everlong("read", text, *where)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "bytes on the disk, and" in refused.err
        assert not (tmp_path / "store").exists()
    done = everlong("read", text, *where)
    assert done.code == 0
    first = done.err.splitlines()[0]
    assert first.startswith(f"{full['tokens']:,} tokens to read: about ")
    assert "on the disk at most" in first
    again = everlong("read", text, *where)
    assert "tokens to read" not in again.err


def test_what_is_foretold_is_of_the_sessions_own_method(everlong, tiny, text_file, tmp_path):
    where = ["--store", tmp_path / "store"]
    assert everlong("read", text_file, *where, "--model", tiny, "--method", "sinks", "-o", "window=40").code == 0
    more = text_file.with_name("b.txt")
    more.write_text("And then the tide fell. " * 60)
    own = everlong("read", more, *where, "--dry-run", "--json").json
    other = everlong("read", more, "--store", tmp_path / "other", "--model", tiny, "--dry-run", "--json").json
    assert own["tokens"] == other["tokens"]
    assert own["bytes"]["disk"] < other["bytes"]["disk"]


def test_a_file_that_is_foretold_is_warned_of_once(everlong, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("everlong.cli.plan.FORETOLD_BYTES", 10)
    text = tmp_path / "text.txt"
    text.write_bytes(b"A caf\xe9 by the sea. " * 20)
    done = everlong("read", text, "--store", tmp_path / "store", "--model", tiny, *FIELDS)
    assert done.code == 0, done.err
    assert "tokens to read" in done.err
    assert done.err.count("is not UTF-8") == 1, done.err


def test_a_dry_run_counts_what_is_not_read_yet(everlong, tiny, text_file, tmp_path):
    where = ["--store", tmp_path / "store", "--model", tiny]
    read = everlong("read", text_file, *where, *FIELDS, "--json").json
    more = text_file.with_name("b.txt")
    more.write_text("And then the tide fell. " * 60)
    left = everlong("read", text_file, more, *where, "--dry-run", "--json").json
    assert [Path(name).name for name in left["by_file"]] == ["b.txt"]
    assert left["held_tokens"] == read["tokens"]
    alone = everlong("read", more, "--store", tmp_path / "other", "--model", tiny, "--dry-run", "--json").json
    assert left["tokens"] == alone["tokens"]


def test_of_a_text_that_grew_and_of_stdin_what_will_be_read_is_said(everlong, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("everlong.cli.plan.FORETOLD_BYTES", 100)
    text = tmp_path / "a.md"
    text.write_text("# Log\n\n" + "It goes on and on.\n" * 30)
    where = ["--store", tmp_path / "store", "--model", tiny, *FIELDS]
    whole = int(re.search(r"([\d,]+) tokens to read", everlong("read", text, *where).err)[1])
    with text.open("a") as file:
        file.write("# Night\n\n" + "And on it goes.\n" * 10)
    grown = everlong("read", text, *where)
    added = int(re.search(r"([\d,]+) tokens to read", grown.err)[1])
    assert 0 < added < whole
    assert f"\n{added:,} tokens read in " in grown.err
    (first, second) = Library(tmp_path / "store").sources(Library(tmp_path / "store").entry("default"))
    assert [[p.title for p in s.places] for s in (first, second)] == [["Log"], ["Night"]]
    piped = everlong("read", "-", *where, stdin=b"Something else is piped in. " * 10)
    assert "tokens to read" in piped.err


FIRST = {
    "score": ["score", "a text.txt"],
    "score written": ["score", "a text.txt", "--csv", "out.csv", "--method", "window", "-o", "window=24"],
    "score stdin": ["score", "-"],
    "generate": ["generate", "--prompt", "it's", "--max-new-tokens", "2"],
    "doctor": ["doctor"],
    "bench": ["bench", "--what", "read", "--cache", "20", "--chunk", "16", "--repeats", "1", "--peers", "none"],
}
THEN = {"score": "score", "score written": "chat", "score stdin": "chat", "generate": "chat"}


@pytest.mark.parametrize("name", FIRST)
def test_what_the_other_commands_print_runs(everlong, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path / "a model")
    Path("a text.txt").write_text("Gulls cried over the pier. " * 9)
    asked = [*FIRST[name], "--model", "a model", "--dtype", "bfloat16"]
    done = everlong(*asked, stdin=b"Gulls cried over the pier.")
    assert done.code == 0, done.err
    (command,) = commands(done.err)
    assert command[0] == THEN.get(name, "bench")
    assert command[command.index("--dtype") + 1] == "bfloat16"
    if name == "doctor":  # it names `bench` alone, which takes minutes on its many tokens
        command += FIRST["bench"][1:]
    then = everlong(*command)
    assert then.code == 0, then.err


def test_a_model_without_a_template_is_not_talked_to(everlong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = save_folder(tmp_path / "model", template=None)
    done = everlong("generate", "--prompt", "it's", "--max-new-tokens", "2", "--model", model)
    assert done.code == 0, done.err
    assert "Next: " not in done.err
