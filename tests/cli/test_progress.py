"""What a person sees while files are read: how far it is, how fast, how long yet; and what stays on the screen."""

from __future__ import annotations

import io
import re
import sys

import pytest

from everlong.cli import console as said
from everlong.cli import source
from everlong.cli.amounts import duration, size
from everlong.cli.console import Console

STEP = re.compile(r"([\d,]+) / ([\d,]+) tokens\s+([\d,]+) tokens/s, [\d.]+ (?:s|min|h)[\d a-z]* left")
STAYS = r"{}: {:,} tokens read in [\d.]+ s \([\d,]+ tokens/s\)"


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def read(everlong, tiny, tmp_path):
    def call(*arguments, stdin=b""):
        where = ["--store", tmp_path / "store", "--model", tiny, "--method", "sinks", "-o", "window=40"]
        return everlong("read", *where, "--chunk", "16", *arguments, stdin=stdin)

    return call


@pytest.fixture
def every_step(monkeypatch):
    """Plain progress is printed at each step, and not every few seconds only."""
    monkeypatch.setattr(said, "_LINE_EVERY_S", 0.0)


def steps(err, name):
    """The progress lines of a file: tokens done and of how many."""
    found = [STEP.search(line.removeprefix(f"{name} ")) for line in err.splitlines() if line.startswith(f"{name} ")]
    return [tuple(int(n.replace(",", "")) for n in one.groups()[:2]) for one in found if one]


def test_plain_progress_has_total_speed_and_time_left_and_moves_per_chunk(read, text_file, tmp_path, every_step):
    other = tmp_path / "[b] {c}.txt"
    other.write_text("Gulls cried over the pier. " * 9)
    done = read(text_file, other)
    assert done.code == 0, done.err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.err), "no control characters in a pipe"
    for name in ("text.txt", "[b] {c}.txt"):
        counts = steps(done.err, name)
        total = counts[0][1]
        assert [done for done, _ in counts] == [*range(16, total, 16), total]
        assert {of for _, of in counts} == {total}
        assert re.search(STAYS.format(re.escape(name), total), done.err)


def test_a_bar_moves_on_a_terminal_and_a_line_stays(read, text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    name = "[b] {c}.txt"
    text_file.rename(tmp_path / name)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert read(tmp_path / name).code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    found = STEP.search(shown)
    assert found, shown
    total = int(found[2].replace(",", ""))
    assert name in shown[: found.start()]
    assert re.search(STAYS.format(re.escape(name), total), shown[found.end() :])


def test_a_reading_that_goes_on_counts_from_there(read, text_file, every_step, monkeypatch, everlong, tmp_path):
    from everlong.session import ingest as reading
    from everlong.session.session import Session

    feed = Session.feed
    fed: list[int] = []

    def cut_off(self, x, **more):
        fed.append(1)
        if len(fed) == 20:
            raise reading.InputError("text: ends here")
        return feed(self, x, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "feed", cut_off)
        assert read(text_file).code == 2
    again = read(text_file)
    assert again.code == 0, again.err
    assert "text.txt: goes on behind 304 tokens" in again.err
    counts = steps(again.err, "text.txt")
    total = counts[0][1]
    assert (counts[0][0], counts[-1]) == (320, (total, total))
    assert re.search(STAYS.format("text.txt", total - 304), again.err)


def test_of_a_log_that_grew_what_was_added_is_the_total(read, text_file, every_step):
    read(text_file)
    with text_file.open("a") as file:
        file.write("And then the tide fell. " * 9)
    grown = read(text_file, "--json")
    added = grown.json["read_tokens"]
    with text_file.open("a") as file:
        file.write("And then the tide fell. " * 9)
    more = read(text_file)
    assert {of for _, of in steps(more.err, "text.txt")} == {added}


def test_stdin_has_a_total_too(read, every_step):
    done = read("-", stdin=b"Gulls cried over the pier. " * 9)
    (name,) = {line.partition(" ")[0] for line in done.err.splitlines() if STEP.search(line)}
    counts = steps(done.err, name)
    assert counts[-1][0] == counts[0][1]


def test_a_text_that_fails_on_the_way_is_read_up_to_there(read, tmp_path, every_step, monkeypatch):
    monkeypatch.setattr(source, "_BLOCK_BYTES", 512)
    text = tmp_path / "a.txt"
    text.write_bytes(b"Gulls cried over the pier. " * 340 + b"\0")
    done = read(text, "--chunk", "128")
    assert done.code == 2
    assert "a NUL byte" in done.err
    assert "a.txt 128 tokens" in done.err


def test_quiet_and_json_say_nothing(read, text_file, tmp_path, every_step):
    assert read(text_file, "--quiet").err == ""
    (tmp_path / "b.txt").write_text("And then the tide fell. " * 9)
    assert read(tmp_path / "b.txt", "--json").err == ""


def test_time_left_is_told_by_what_was_done_since(monkeypatch, capsys):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(said.time, "monotonic", lambda: float(next(clock)))
    with Console().progress("x", 1000, begun=900) as advance:
        advance(920, "")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"x 920 / 1,000 tokens  \d+ min( \d+ s)? left", line)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (2**20 - 1, "1.0 MiB"), (87 * 2**20, "87 MiB")],
)
def test_sizes_in_words(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0.0 s"), (59.7, "1 min"), (3590, "1 h"), (86399, "1 d"), (5400, "1 h 30 min")]
)
def test_times_in_words(seconds, words):
    assert duration(seconds) == words


def test_what_is_left_of_a_work_that_waited_is_told_from_its_own_beginning(capsys, monkeypatch, every_step):
    clock = [0.0]
    monkeypatch.setattr(said.time, "monotonic", lambda: clock[0])
    with Console().progresses({"first": 100, "second": 100}) as advance:
        for clock[0], name, done in ((10, "first", 50), (1000, "second", 20), (1010, "second", 30)):
            advance(name, done, "")
    assert capsys.readouterr().err.splitlines()[-1] == "second 30 / 100 tokens  1 min 10 s left"
