"""search: passages by their words; ask: how many passages are read again."""

from __future__ import annotations

import shlex

import pytest

from tests.cli.conftest import TEXT

SMALL = ["sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8"]
FIELDS = [part for field in SMALL for part in ("-o", field)]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    """A text with one sentence of its own."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(f"{TEXT}Gulls cried over the pier. {TEXT}")
    return path


@pytest.fixture(scope="module")
def kept(run_once, tiny, text_file):
    """A session that read the text, which no test changes; the command that was printed goes on with it."""
    store = text_file.with_name("store")
    done = run_once("read", text_file, "--store", store, "--model", tiny, *FIELDS)
    assert done.code == 0, done.err
    assert run_once(*next_command(done.err), "--max-new-tokens", "2").code == 0
    return ("--store", store, "--model", tiny)


def test_the_sentence_with_the_words_is_shown(everlong, kept, text_file):
    found = everlong("search", "gulls pier", *kept, "--json").json
    text = text_file.read_text()
    assert "Gulls cried over the pier." in found[0]["sentence"]
    assert all(text[p["start"] : p["end"]] == p["text"] for p in found)
    shown = everlong("search", "gulls pier", *kept, "--top", "1")
    assert shown.out.startswith(f"{text_file.name}, line 1 (characters {found[0]['start']:,} to ")
    assert (found[0]["name"], found[0]["line"], found[0]["page"]) == (text_file.name, 1, None)
    assert found[0]["source"] == str(text_file)
    command = next_command(shown.err)
    assert command[:2] == ["ask", "gulls pier"]
    assert everlong(*command, "--max-new-tokens", "2").code == 0


def test_what_cannot_be_searched_is_said(everlong, kept):
    empty = everlong("search", "  ", *kept)
    assert (empty.code, empty.err.count("\n")) == (2, 1)
    other = everlong("search", "gulls", *kept[:2], "--model", "no-such-model/at-all")
    assert (other.code, other.err.count("\n")) == (2, 1)


def test_ask_takes_a_number_of_passages_or_auto(everlong, kept):
    ask = ("ask", "Who cried over the pier?", "--raw", "--max-new-tokens", "2", "--json", *kept)
    counts = {again: everlong(*ask, "--again", again).json["recall"] for again in ("0", "1", "auto")}
    assert counts["0"]["way"] == "blocks"
    assert counts["1"]["way"] == counts["auto"]["way"] == "again"
    assert len(counts["1"]["shown"]) == 1
    wrong = everlong(*ask, "--again", "few")
    assert wrong.code == 2
    assert "--again few: expected a number of passages" in wrong.err


def test_an_encoder_that_is_not_there_is_said_before_anything_is_read(everlong, tiny, tmp_path, text_file):
    store = tmp_path / "new"
    done = everlong("read", text_file, "--store", store, "--model", tiny, *FIELDS, "--encoder", "no-such/encoder")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no-such/encoder" in done.err
    assert not store.exists()


def next_command(said):
    """The arguments of the command that is printed to go on with, as a shell would take them."""
    (line,) = [line for line in said.splitlines() if line.startswith("Next: everlong ")]
    return shlex.split(line)[2:]
