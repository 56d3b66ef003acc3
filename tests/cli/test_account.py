"""The line after an answer: what was looked at and what is lost, in plain words; the whole report with --report."""

from __future__ import annotations

import re

import pytest

from everlong.cli.account import lost
from everlong.session.losses import Losses
from everlong.session.session import Session

SMALL = ("sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8")
FIELDS = [part for f in SMALL for part in ("-o", f)]
LINE = "The pump of harbour {} was started at noon.\n"
TEXT = "".join(LINE.format(n) for n in range(10))


@pytest.fixture
def read(everlong, tiny, tmp_path):
    """Reads a text of this name."""

    def call(text, *options, name="a.txt"):
        path = tmp_path / name
        path.write_text(text)
        done = everlong("read", path, "--store", tmp_path / "store", "--model", tiny, *(options or FIELDS))
        assert done.code == 0, done.err
        return done

    return call


@pytest.fixture
def ask(everlong, tmp_path):
    """Asks, and says the line about the answer (the last but one on stderr)."""

    def call(*options, tokens=4):
        more = ["--store", tmp_path / "store", "--max-new-tokens", tokens]
        done = everlong("ask", "Which pump of harbour 4?", *more, *options)
        assert done.code == 0, done.err
        return next(line for line in done.err.splitlines() if line.startswith("looked at ")), done

    return call


def test_the_line_is_plain_and_the_report_is_there_when_it_is_wanted(read, ask):
    assert read(TEXT).err.splitlines()[-2].endswith("; nothing lost")
    line, done = ask()
    assert re.fullmatch(r"looked at [12] of \d+ passages; nothing lost; .*the answer is cut off after .*", line), line
    assert "MiB" not in done.err
    assert "stored" not in done.err
    _, done = ask("--report")
    assert re.search(r"blocks\(.*\): seen [\d,]+ = sinks .* opened in ", done.err)
    _, done = ask("--again", "0", "--report")
    assert re.search(r"^looked at [12] of \d+ passages and 26 tokens beside them; nothing lost", done.err, re.MULTILINE)


def test_the_json_has_the_whole_report(read, ask, everlong, tmp_path):
    read(TEXT)
    said = everlong("ask", "What?", "--store", tmp_path / "store", "--max-new-tokens", 2, "--json").json
    assert {"seen_tokens", "dropped_tokens", "stored_tokens", "bytes"} <= said["report"].keys()
    assert said["memory"].startswith("blocks(")


def test_what_was_forgotten_is_said(read, ask, everlong, tmp_path):
    read(TEXT)
    assert everlong("forget", "--tokens", "40:60", "--store", tmp_path / "store").code == 0
    line, _ = ask()
    assert "; lost: 32 tokens forgotten" in line


def test_what_has_changed_is_said(read, ask):
    read(TEXT)
    again = read("It says something else. " * 20)
    assert re.search(r"lost: [\d,]+ tokens of texts that have changed since", again.err)
    assert "of texts that have changed since" in ask()[0]


def test_what_was_given_up_for_room_is_said(read, ask, everlong, tiny, tmp_path):
    text = TEXT * 3
    (tmp_path / "a.txt").write_text(text)
    plan = everlong("read", tmp_path / "a.txt", "--dry-run", "--model", tiny, *FIELDS, "--json").json
    room = ["--disk-budget", str(plan["bytes"]["disk"] * 3 // 4), "--when-full", "oldest"]
    assert "tokens given up for room or damaged" in read(text, *room, *FIELDS).err
    assert "tokens given up for room or damaged" in ask()[0]


def test_a_text_that_was_read_in_part_is_said(read, ask, tmp_path, monkeypatch, everlong, tiny):
    read(TEXT)
    feed, fed = Session.feed, []

    def cut_off(self, x, **more):
        fed.append(1)
        if len(fed) == 3:
            raise KeyboardInterrupt
        return feed(self, x, **more)

    (tmp_path / "b.txt").write_text(TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "feed", cut_off)
        patch.setattr("everlong.session.ingest.Checkpoints.due", True)
        assert everlong("read", tmp_path / "b.txt", "--store", tmp_path / "store", "--chunk", 32).code == 130
    assert "; of b.txt only a part was read" in ask()[0]
    read(TEXT, name="b.txt")
    assert "only a part" not in ask()[0]


def test_a_method_that_stores_nothing_says_what_has_left_it(read, ask):
    read(TEXT, "--method", "sinks", "-o", "window=40")
    line, _ = ask()
    assert re.match(r"looked at 44 of [\d,]+ tokens; lost: [\d,]+ tokens that left the window and are not kept", line)


def test_a_short_text_is_looked_at_whole(read, ask):
    read("The tide rose.", "--method", "sinks", "-o", "window=100")
    assert re.match(r"looked at all \d+ tokens; nothing lost", ask()[0])


def test_passages_that_grew_out_of_sight_are_said(read, ask, monkeypatch):
    monkeypatch.setattr("everlong.session.asking.ROOM_TOKENS", 1)
    read(TEXT)
    assert "of what was read again left the window before the answer ended" in ask(tokens=12)[0]


def test_a_chat_says_it_after_an_answer_with_passages(read, everlong, tmp_path):
    read(TEXT)
    where = ["--store", tmp_path / "store", "--session", "default", "--max-new-tokens", 4, "--temperature", 0]
    done = everlong("chat", *where, stdin=b"Which pump of harbour 4?\n")
    assert done.code == 0, done.err
    assert re.search(r"^looked at [12] of \d+ passages; nothing lost$", done.err, re.MULTILINE)
    assert re.search(r"^[\d,]+ tokens seen; nothing lost$", done.err, re.MULTILINE)
    assert "MiB" not in done.err
    told = everlong("chat", *where, "--report", stdin=b"")
    assert re.search(r"blocks\(.*\): seen ", told.err)


def test_reasons_in_words():
    assert lost(Losses()) == "nothing lost"
    assert lost(Losses(forgotten=1)) == "lost: 1 token forgotten"
    assert lost(Losses(compressed=2000, unfinished=("a.txt",))) == (
        "2,000 tokens kept in a compressed memory only; of a.txt only a part was read"
    )
