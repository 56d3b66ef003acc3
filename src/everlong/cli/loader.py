"""Commands that are imported when they are needed: what one takes for its help, what it does when it runs.

This is the one place where the command line imports late. `everlong --help` reads neither; `everlong VERB --help` and
the shell's completion read what the verb takes (verbs/, no torch); running it reads its work, whose imports are
ordinary ones at the top.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup


class Verb(NamedTuple):
    """A command by its name and its line in the list of commands; where its two parts are follows from the name.

    What it takes is the class `<Name>Options` in `verbs/<module>.py`, a dataclass whose docstring is the help; its work
    is the function `work` of `<module>.py`, given the context and an object of that class.
    """

    name: str
    line: str = ""
    module: str = ""
    work: str = ""

    def takes(self) -> type:
        """The class that says what the command takes, imported."""
        return _imported(f"verbs.{self.module or self.name}", f"{self.name.title()}Options")

    def run(self, ctx: typer.Context, given: Any) -> None:
        """Import the command's work and do it."""
        work: Callable[[typer.Context, Any], None] = _imported(self.module or self.name, self.work or self.name)
        work(ctx, given)


class VerbGroup(NamedTuple):
    """A group of commands by its name and line: the Typer of that name in `verbs/<name>.py`."""

    name: str
    line: str


class LoadedCommand(TyperCommand):
    """A command whose context is of the type that Typer's documentation names."""

    context_class = typer.Context


class LazyCommands(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __init__(self, verbs: tuple[Verb | VerbGroup, ...]) -> None:
        self._verbs = {verb.name: verb for verb in verbs}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = loaded(self._verbs[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs)

    def __len__(self) -> int:
        return len(self._verbs)


class ContextGroup(TyperGroup):
    """A group whose context is of the type that Typer's documentation names."""

    context_class = typer.Context


class LazyGroup(ContextGroup):
    """A group that knows its commands by name and line alone; a subclass gives them as `verbs`."""

    verbs: ClassVar[tuple[Verb | VerbGroup, ...]] = ()

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        commands: Any = LazyCommands(self.verbs)
        self.commands = commands

    def _listed(self) -> ContextGroup:
        """A group with the names and lines of the commands, and nothing else of them."""
        return ContextGroup(
            name=self.name,
            params=self.params,
            commands=[LoadedCommand(name=verb.name, help=verb.line, callback=None) for verb in self.verbs],
        )

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        self._listed().format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete the names of commands without importing them."""
        listed = self._listed()
        return listed.shell_complete(typer.Context(listed, info_name=ctx.info_name), incomplete)


def loaded(verb: Verb | VerbGroup) -> Any:
    """The command, or the group of commands, of a verb."""
    if isinstance(verb, VerbGroup):
        return typer.main.get_command(_imported(f"verbs.{verb.name}", verb.name))
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    add_command(alone, verb, verb.takes())
    return typer.main.get_command(alone)


def add_command(app: typer.Typer, verb: Verb, takes: type) -> None:
    """Add the command of a verb to `app`: the options of `takes`, its docstring as help, its work imported late."""

    def run(ctx: typer.Context, **values: Any) -> None:
        verb.run(ctx, gathered(takes, values))

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *spliced(takes)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = takes.__doc__
    app.command(verb.name, cls=LoadedCommand)(run)


def spliced(takes: type, defaults: Any = None) -> Iterator[inspect.Parameter]:
    """The parameters of a command: the fields of the dataclass in their order, those of a group in the group's place.

    `defaults` is an instance whose values are the defaults, for a command that wants others than the group's own.
    """
    hints = get_type_hints(takes, include_extras=True)
    for field in dataclasses.fields(takes):
        default = field.default if defaults is None else getattr(defaults, field.name)
        absent = default is dataclasses.MISSING
        if dataclasses.is_dataclass(hints[field.name]):
            yield from spliced(hints[field.name], None if absent else default)
            continue
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if absent else default,
            annotation=hints[field.name],
        )


def gathered(takes: type, values: dict[str, Any]) -> Any:
    """An object of the dataclass, its groups included, with these values of the parameters."""
    hints = get_type_hints(takes)
    given = {
        field.name: gathered(hints[field.name], values)
        if dataclasses.is_dataclass(hints[field.name])
        else values[field.name]
        for field in dataclasses.fields(takes)
    }
    return takes(**given)


def _imported(module: str, name: str) -> Any:
    """The object of this name in a module of the command line."""
    return getattr(importlib.import_module(f"everlong.cli.{module}"), name)
