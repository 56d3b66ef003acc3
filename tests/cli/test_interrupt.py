"""Ctrl-C and SIGTERM: nothing half-written, what was read is kept, an answer is cut short and the chat goes on."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import everlong as package
from everlong.hooks.adapter import load
from everlong.library.library import Library
from everlong.session.session import Session
from tests.cli.copies import Copy

HEAVY = pytest.mark.heavy(reason="a new process imports torch, and the signal comes while it does or from its terminal")
DEADLINE_S = 120


def process(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """The command line in a new process."""
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "everlong", *arguments], text=True, env=environment, cwd=folder, **pipes
    )


NEW = pytest.param(process, id="process", marks=pytest.mark.slow(reason="`make test` interrupts a copy of its process"))


@pytest.fixture(params=[pytest.param(Copy, id="copy"), NEW])
def start(request, tiny, tmp_path):
    """Starts the command line over the tiny model in a process of its own, which the test ends."""
    started = []

    def begin(*arguments: str) -> Copy | subprocess.Popen[str]:
        started.append(request.param([*arguments, "--model", tiny, "--threads", "1"], tmp_path))
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture
def long_text(tmp_path) -> Path:
    """A text that takes minutes to read one token at a time."""
    path = tmp_path / "long.txt"
    path.write_text("It goes on and on. " * 50_000)
    return path


def importing(process: subprocess.Popen[str]) -> None:
    """Returns when torch is being imported."""
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see how far the process has come")
    while "libtorch" not in maps.read_text():
        time.sleep(0.02)


def reading(process: subprocess.Popen[str]) -> None:
    """Returns when progress was shown."""
    assert process.stderr.readline().startswith("reading ")


IMPORTS = [pytest.param(importing, process, id="importing", marks=HEAVY), pytest.param(reading, Copy, id="reading")]


@pytest.mark.parametrize(("moment", "start"), IMPORTS, indirect=["start"])
def test_score_ends_with_130_and_writes_nothing(start, long_text, moment, monkeypatch):
    monkeypatch.setattr("everlong.cli.console._LINE_EVERY_S", 0.0)
    process = start("score", str(long_text), "--chunk", "1", "--csv", str(long_text.with_name("out.csv")))
    moment(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "everlong: interrupted"
    assert "Traceback" not in err
    assert list(long_text.parent.iterdir()) == [long_text]


def test_generate_ends_with_130(start):
    process = start("generate", "--prompt", "a", "--max-new-tokens", "1000000", "--temperature", "1", "--seed", "1")
    assert process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_chat_survives_an_interrupt_inside_an_answer(start):
    options = ["--max-new-tokens", "1000000", "--temperature", "1", "--seed", "1"]
    process = start("chat", *options)
    process.stdin.write("Hello\n")
    process.stdin.flush()
    assert process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    out, err = process.communicate("/report\n/undo\n/report\n", timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "(cut short)" in err
    assert "Taken back." in err
    reports = [line for line in out.splitlines() if ": seen " in line]
    assert len(reports) == 2
    assert ": seen 0 = " in reports[1]


def test_chat_leaves_with_130_at_the_prompt(start):
    process = start("chat", "--json", "--max-new-tokens", "3")
    process.stdin.write("Hello\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["report"]["seen_tokens"] > 3
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130


class Screen:
    """What a terminal shows, looked through from its beginning."""

    def __init__(self, terminal: int):
        self.terminal, self.text, self.at = terminal, "", 0

    def until(self, words: str) -> str:
        """What comes up to these words, which are waited for."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.text.find(words, self.at)) < 0:
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{words!r} never came: {self.text}"
            self.text += os.read(self.terminal, 4096).decode(errors="replace")
        before, self.at = self.text[self.at : found], found + len(words)
        return before


def interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C at a prompt that has been shown: a moment later, since input() only then waits for it."""
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)


@HEAVY
def test_an_interrupt_at_the_prompt_clears_the_line_and_a_second_one_leaves(tiny):
    terminal, other = pty.openpty()
    screen = Screen(terminal)
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "TERM": "dumb"}
    options = ["--max-new-tokens", "3", "--session", "a", "--model", tiny, "--threads", "1"]
    command = [sys.executable, "-m", "everlong", "chat", *options]
    process = subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
    )
    try:
        os.close(other)
        screen.until("> ")
        os.write(terminal, b"Hello\n")
        screen.until("Hello")
        screen.until("\n> ")
        os.write(terminal, b"half a lin")
        screen.until("half a lin")
        interrupt(process)
        screen.until("again leaves")
        screen.until("\n> ")
        os.write(terminal, b"And then?\n")
        screen.until("And then?")
        screen.until("\n> ")
        interrupt(process)
        screen.until("again leaves")
        screen.until("\n> ")
        interrupt(process)
        assert "tokens seen; nothing lost" in screen.until("Kept as a;")
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    with Session.open(None, "a", load(tiny), read_only=True) as session:
        text = session.tokenizer.decode(session.transcript.ids)
    assert text.count("user\n") == 2
    assert "user\nAnd then?" in text


SMALL = [part for field in ("window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8") for part in ("-o", field)]


def test_reading_ends_in_order_when_it_is_asked_to_end(start, tmp_path):
    (tmp_path / "long.txt").write_text("It goes on and on. " * 3000)
    process = start("read", "long.txt", "--store", "store", "--chunk", "8", *SMALL)
    while not list(tmp_path.glob("store/blocks/*.blocks")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "everlong: terminated"
    kept = Library(tmp_path / "store").entry("default").tokens
    assert 0 < kept < 3000
    assert f"everlong: {kept:,} tokens are kept; this goes on from there:" in err


@pytest.fixture
def _heeded():
    """These signals end a process, also where the tests run under nohup or in the background."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_heeded")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_command_that_is_named_goes_on(everlong, tiny, tmp_path, monkeypatch, stop, more):
    monkeypatch.chdir(tmp_path)
    Path("a long text.txt").write_text("It goes on and on. " * 9)
    fed, feed = [], Session.feed

    def interrupted(session, *arguments, **how):
        if len(fed) == 3:
            os.kill(os.getpid(), stop)
        fed.append(feed(session, *arguments, **how))
        return fed[-1]

    monkeypatch.setattr(Session, "feed", interrupted)
    where = ["--session", "my book", "--store", "a store", "--model", tiny, "--chunk", "32"]
    ended = everlong("read", "a long text.txt", *where, *SMALL, *more)
    assert ended.code == (130 if stop == signal.SIGINT else 128 + stop)
    said, command = ended.err.splitlines()[-2:]
    kept = Library("a store").entry("my book").tokens
    assert kept == 4 * 32
    assert said == f"everlong: {kept} tokens are kept; this goes on from there:"
    words = shlex.split(command)
    assert words[0] == "everlong"
    again = everlong(*words[1:])
    assert again.code == 0, again.err
    library = Library("a store")
    assert library.entry("my book").tokens == sum(fed) > kept
    assert [(s.name, s.done) for s in library.sources(library.entry("my book"))] == [
        (str(Path("a long text.txt").resolve()), True)
    ]
