"""The command line as a whole: its cost, its help, one line for every mistake, exit codes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import everlong as package
from everlong.cli import main
from everlong.cli.app import EverlongGroup
from everlong.errors import EverlongError

HELP_SECONDS = 0.3
SOURCES = str(Path(package.__file__).parents[1])


def command(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": SOURCES}
    whole = [sys.executable, "-m", "everlong", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, env=environment, check=False, **options)


def cpu_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert command(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_instant():
    assert min(cpu_seconds("--help") for _ in range(5)) < HELP_SECONDS


@pytest.mark.parametrize("verb", [verb.name for verb in EverlongGroup.verbs])
def test_help_of_a_command_loads_nothing_heavy(verb):
    code = (
        f"import sys; sys.path.insert(0, {SOURCES!r})\n"
        "from everlong.cli.main import run; run([sys.argv[1], '--help'])\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'rich', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith(f"Usage: everlong {verb}")
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands(everlong):
    ended = everlong("--help")
    assert ended.code == 0
    listed = [line.split()[0] for line in ended.out.split("Commands:")[1].strip().splitlines()]
    assert listed == [
        "read",
        "ask",
        "search",
        "pin",
        "unpin",
        "forget",
        "generate",
        "chat",
        "serve",
        "mcp",
        "score",
        "eval",
        "report",
        "train",
        "merge",
        "calibrate",
        "bench",
        "models",
        "doctor",
        "demo",
        "sessions",
    ]
    assert "..." not in ended.out.split("Commands:")[1]
    assert everlong().out == ended.out


def test_version(everlong):
    assert everlong("--version").out.strip() == package.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scroe"], "No such command 'scroe'."),
        (["score"], "Missing argument 'FILE'."),
        (["score", "x.txt", "--windw", "3"], "No such option: --windw"),
        (["score", "x.txt", "--threads", "0"], "Invalid value for '--threads': "),
        (["score", "x.txt", "--max-tokens", "many"], "Invalid value for '--max-tokens'"),
        (["score", "x.txt", "--method", "sink"], "method 'sink': does not exist; did you mean 'sinks'?"),
        (["score", "x.txt", "-o", "windw=3"], "windw=3: method sinks has no option 'windw'; did you mean 'window'?"),
        (["score", "x.txt", "-o", "window=0"], "window=0: must be at least 1"),
        (["score", "x.txt", "-o", "sinks=-1"], "sinks=-1: must be at least 0"),
        (["score", "x.txt", "-o", "window=big"], "window=big: expected a whole number"),
        (["score", "x.txt", "-o", "window"], "-o 'window': expected field=value"),
        (["score", "x.txt", "--method", "dense", "-o", "window=3"], "method dense has no option 'window'"),
        (["score", "absent.txt"], "absent.txt: No such file or directory; give the path of a text file"),
        (["generate"], "prompt: got neither of --prompt TEXT and --prompt-file FILE"),
        (["generate", "--prompt", "a", "--prompt-file", "b"], "prompt: got both of"),
        (["generate", "--prompt", ""], "prompt: empty"),
        (["generate", "--prompt", "a", "--top-p", "0.5"], "top_p=0.5: has no effect at temperature=0"),
        (["generate", "--prompt", "a", "--temperature", "1", "--top-p", "2"], "top_p=2.0: must be above 0"),
        (["generate", "--prompt", "a", "--stop", ""], "stop=('',): each stop string needs a character"),
        (["generate", "--prompt-file", "absent.txt"], "absent.txt: No such file or directory"),
        (["chat", "--method", "window", "--pin-system"], "method window has no sinks to pin the prompt with"),
        (["bench", "--what", "decod"], "what=decod: does not exist; did you mean 'decode'?"),
        (["bench", "--cache", "big"], "cache=big: expected a whole number"),
        (["bench", "--cache", "4"], "cache=4: must be more than the 4 sinks"),
        (["bench", "--cache", "256,"], "'256,': expected names or numbers with commas between"),
        (["bench", "--cache", "64", "-o", "window=3"], "window=3: --cache sets it"),
        (["bench", "--method", "sink"], "method 'sink': does not exist"),
        (["doctor", "-o", "windw=3"], "windw=3: no method has this option; did you mean 'window'?"),
        (["doctor", "--model", "./absent"], "./absent: no such file or folder"),
        (["doctor", "--dtype", "float"], "dtype=float: expected auto or a float type"),
        (["doctor", "--device", "cud"], "device=cud: no such device"),
        (["score", "x.txt", "--config", "absent.yaml"], "config absent.yaml: No such file or directory"),
    ],
)
def test_each_mistake_is_one_line_and_exit_2(everlong, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_text("some text")
    ended = everlong(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("everlong: ")
    assert message in ended.err


def test_debug_shows_the_traceback(everlong):
    with pytest.raises(EverlongError, match="does not exist"):
        everlong("--debug", "generate", "--prompt", "a", "--method", "none")
    with pytest.raises(EverlongError, match="does not exist"):
        everlong("generate", "--prompt", "a", "--method", "none", "--debug")


def test_a_defect_is_one_line_and_exit_1(everlong, monkeypatch):
    monkeypatch.setattr("everlong.cli.options.sampling", lambda given: 1 / 0)
    ended = everlong("generate", "--prompt", "a")
    assert ended.code == 1
    said = "everlong: unexpected ZeroDivisionError: division by zero; run it again with --debug for the traceback\n"
    assert ended.err == said


def test_an_interrupt_is_exit_130(everlong, monkeypatch):
    def interrupted(given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("everlong.cli.options.sampling", interrupted)
    assert everlong("generate", "--prompt", "a").code == 130


def test_an_interrupt_before_the_command_runs_is_exit_130(monkeypatch, capsys):
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    ended = []
    monkeypatch.setattr(main, "run", interrupted)
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(SystemExit, match="130"):
        main.main()
    assert ended == [130]
    assert capsys.readouterr().err == "everlong: interrupted\n"


def test_the_exit_code_reaches_the_shell():
    done = command("scroe")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_traceback():
    whole = f"PYTHONPATH={SOURCES} {sys.executable} -m everlong score --help | head -c 1"
    done = subprocess.run(whole, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("U", "")


def test_sessions_alone_shows_its_help_whole(everlong):
    ended = everlong("sessions")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == everlong("sessions", "--help").out
    assert len(ended.out.splitlines()) > 10


@pytest.mark.parametrize("threads", [100_000, 10**30])
def test_more_threads_than_can_be_started_are_refused(everlong, tiny, threads):
    ended = everlong("generate", "--prompt", "a", "--threads", threads, "--model", tiny)
    assert ended.code == 2
    assert f"threads={threads}: this machine has " in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "verb", ["read", "ask", "pin", "unpin", "forget", "generate", "chat", "score", "bench", "doctor"]
)
def test_every_verb_that_runs_the_model_takes_threads_and_a_memory(everlong, verb):
    shown = everlong(verb, "--help").out
    assert "--threads" in shown
    assert "--memory" in shown


def test_lengths_that_are_none_are_said_in_words(everlong, tiny):
    ended = everlong("eval", "passkey", "--lengths", "abc", "--model", tiny)
    assert ended.code == 2
    assert "lengths=abc: expected whole numbers with commas between" in ended.err
    assert "Annotated" not in ended.err
