"""Commands are imported when they are needed, and options that they share are declared once."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

import everlong as package
from everlong.cli import groups
from everlong.cli.app import EverlongGroup, app
from everlong.cli.loader import LazyCommands, Verb, VerbGroup, add_command, gathered, loaded, spliced

SOURCES = str(Path(package.__file__).parents[1])
VERBS = EverlongGroup.verbs
DRAWN = groups.SamplingOptions(top_k=7)


@dataclass(frozen=True, kw_only=True)
class TryOptions:
    """Try it."""

    what: Annotated[str, typer.Argument()]
    kept: groups.KeptSession
    often: Annotated[int, typer.Option("--often")] = 3
    sampling: groups.SamplingOptions = DRAWN
    output: groups.Output


def imported_by(*arguments: str) -> list[str]:
    """The modules of the command line that a new process has imported after it ran these arguments."""
    code = (
        f"import json, sys; sys.path.insert(0, {SOURCES!r})\n"
        f"from everlong.cli.main import run; run({list(arguments)!r})\n"
        "print(json.dumps([m for m in sys.modules if m.startswith('everlong.cli.') or m == 'torch']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["scroe"]])
def test_no_verb_is_imported_to_name_them(arguments):
    assert not [m for m in imported_by(*arguments) if "verbs" in m or m == "torch"]


def test_help_imports_what_its_verb_takes_and_no_more():
    found = imported_by("score", "--help")
    assert [m for m in found if m.startswith("everlong.cli.verbs.")] == ["everlong.cli.verbs.score"]
    assert "everlong.cli.score" not in found


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_line_of_a_verb_is_the_first_of_its_help(verb):
    assert loaded(verb).help.split("\n")[0] == verb.line


@pytest.mark.parametrize("verb", [v for v in VERBS if isinstance(v, Verb)], ids=lambda verb: verb.name)
def test_the_work_of_a_verb_takes_its_options(verb):
    module = __import__(f"everlong.cli.{verb.module or verb.name}", fromlist=["work"])
    work = getattr(module, verb.work or verb.name)
    assert inspect.get_annotations(work, eval_str=True)["given"] is verb.takes()


def test_commands_are_made_once_and_named_without_being_made():
    commands = LazyCommands(VERBS)
    assert list(commands) == [verb.name for verb in VERBS]
    assert len(commands) == len(VERBS)
    assert "scroe" not in commands
    assert commands["search"] is commands["search"]
    assert commands.get("scroe") is None


def test_a_mistyped_verb_is_told_the_nearest(everlong):
    ended = everlong("scroe")
    assert ended.err == "everlong: No such command 'scroe'. Did you mean 'score'? (see `everlong --help`)\n"
    assert "Did you mean 'verify'?" in everlong("sessions", "verfy", "a").err


def test_a_group_stands_in_its_place_with_the_defaults_that_the_command_wants():
    found = {parameter.name: parameter.default for parameter in spliced(TryOptions)}
    sampling = [field.name for field in dataclasses.fields(groups.SamplingOptions)]
    assert list(found) == ["what", "session", "store", "often", *sampling, "quiet", "json", "debug"]
    assert found["what"] is inspect.Parameter.empty
    assert (found["often"], found["top_k"], found["max_new_tokens"], found["session"]) == (3, 7, 256, "default")


def test_a_command_gets_one_object_with_its_groups():
    values = {parameter.name: parameter.default for parameter in spliced(TryOptions)}
    given = gathered(TryOptions, values | {"what": "this", "session": "mine", "quiet": True})
    assert given.kept == groups.KeptSession(session="mine")
    assert given.sampling == DRAWN
    assert given.output == groups.Output(quiet=True)
    assert (given.what, given.often) == ("this", 3)


def test_no_two_options_of_a_command_have_one_name():
    for verb in VERBS:
        if isinstance(verb, VerbGroup):
            continue
        names = [parameter.name for parameter in spliced(verb.takes())]
        assert len(names) == len(set(names)), verb.name


def test_a_command_can_be_added_to_a_group():
    inner = typer.Typer(add_completion=False)
    add_command(inner, Verb("try"), TryOptions)
    command = typer.main.get_command(inner)
    assert command.help == "Try it."
    assert [p.name for p in command.params][:3] == ["what", "session", "store"]


def test_the_group_is_the_one_of_the_app():
    assert isinstance(typer.main.get_command(app), EverlongGroup)
