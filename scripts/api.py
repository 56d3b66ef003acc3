"""docs/api.md: what a program imports from everlong, made from signatures and docstrings by scripts/docs.py.

The public names are those of `everlong.__all__` and the engine; what they return is listed too, so that a reader of
`Session.ask` finds what a `Reply` has.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import everlong
from everlong import errors
from everlong.engine.engine import Engine, GenerationRequest
from everlong.engine.generation import GenerationResult, GenerationStream
from everlong.engine.snapshot import Snapshot
from everlong.hooks.attach import Handle
from everlong.methods.base import Method
from everlong.methods.blocks.pins import Pin
from everlong.models.load import Loaded
from everlong.session.chat import Chat, ChatTurn
from everlong.session.forgetting import Forgotten
from everlong.session.quotations import Quotation
from everlong.session.recall import Recall, Recalled
from everlong.session.reply import Reply
from everlong.text.transcript import Citation, TokenRange

RETURNED = (
    GenerationResult,
    GenerationStream,
    Reply,
    Citation,
    Quotation,
    Recall,
    Recalled,
    Pin,
    TokenRange,
    Forgotten,
    Snapshot,
    Handle,
    Loaded,
)
"""What the public functions and methods return."""
BESIDE = (Engine, GenerationRequest, Chat, ChatTurn)
"""What a program may use beside `everlong.__all__`, from the modules that the page names."""
_WIDTH = 110
_HEAD = """\
# Python
Generated from signatures and docstrings by `scripts/docs.py`. `import everlong` imports no torch; a name is imported
when it is first used. Methods and their options have [pages of their own](methods/); [README](../README.md) has
examples that run."""


def api_page() -> str:
    """The Markdown page of all public names."""
    public = [getattr(everlong, name) for name in everlong.__all__ if name != "__version__"]
    functions = [found for found in public if not inspect.isclass(found)]
    methods = [found for found in public if inspect.isclass(found) and issubclass(found, Method)]
    others = [found for found in public if inspect.isclass(found) and found not in methods]
    plain = [found for found in others if not issubclass(found, BaseException)]
    parts = [_HEAD, "## Functions", *map(function_section, functions)]
    parts += ["## Classes", *(class_section(found) for found in sorted(plain, key=lambda c: c is not everlong.Session))]
    parts += ["## Beside these", *map(class_section, BESIDE)]
    parts += ["## Methods", "\n".join(map(method_line, methods))]
    parts += ["## What they return", *map(class_section, RETURNED)]
    parts += [
        "## Errors",
        "`everlong.EverlongError` is the base of all; the others are in `everlong.errors`.",
        f"```\n{_tree()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def function_section(function: Callable[..., Any]) -> str:
    """A public function: where it is, how it is called, what it does."""
    return f"### everlong.{function.__name__}\n{code(signature(function))}\n\n{told(function)}"


def method_line(method: type[Method]) -> str:
    """A method: its name, its page, its idea in a sentence."""
    about = told(method).split("\n\n")[0].replace("\n", " ")
    return f"- **`everlong.{method.__name__}`** ([options](methods/{method.name}.md)): {about}"


def class_section(cls: type) -> str:
    """A class: what it is, how it is made, its fields, and what can be done with it."""
    public = cls.__name__ in everlong.__all__
    place = f"everlong.{cls.__name__}" if public else cls.__name__
    parts = [f"### {place}"]
    if not public:
        parts.append(f"`from {cls.__module__} import {cls.__name__}`")
    parts.append(told(cls))
    if "__init__" in vars(cls) and not dataclasses.is_dataclass(cls) and cls not in RETURNED:
        parts.append(code(signature(cls.__init__, cls.__name__)))
    functions = [_function(cls, name, part) for name, part in public_functions(cls)]
    parts += [part for part in (_facts(cls), *functions) if part]
    return "\n\n".join(parts)


def public_functions(cls: type) -> list[tuple[str, Any]]:
    """The public functions of a class, those that it has from everlong's own classes included, by name."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("everlong")]
    names = {name for base in bases for name in vars(base) if not name.startswith("_")}
    found = [(name, inspect.getattr_static(cls, name)) for name in sorted(names)]
    return [(name, part) for name, part in found if isinstance(part, classmethod) or inspect.isfunction(part)]


def _function(cls: type, name: str, part: Any) -> str:
    if isinstance(part, classmethod):
        return f"{code(signature(part.__func__, f'{cls.__name__}.{name}'))}\n\n{told(part.__func__)}"
    return f"{code(signature(part, name))}\n\n{told(part)}"


def _facts(cls: type) -> str:
    """Fields and properties, a line each."""
    rows = [*_fields(cls), *_properties(cls)]
    return "\n".join(f"- `{name}`{f': {about}' if about else ''}" for name, about in rows)


def _fields(cls: type) -> Iterator[tuple[str, str]]:
    """The fields of a dataclass or a named tuple with the text under each; those of its bases first."""
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("everlong") and (dataclasses.is_dataclass(base) or hasattr(base, "_fields")):
            body = _parsed(base).body
            for node, below in zip(body, [*body[1:], None], strict=True):
                if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
                    default = "" if node.value is None else f" = {ast.unparse(node.value)}"
                    yield f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}", _text(below)


def _properties(cls: type) -> Iterator[tuple[str, str]]:
    names = {name for base in cls.__mro__ if base.__module__.startswith("everlong") for name in vars(base)}
    for name in sorted(names):
        part = inspect.getattr_static(cls, name)
        if isinstance(part, property) and not name.startswith("_"):
            yield f"{name}: {signature(part.fget).rpartition(' -> ')[2]}", told(part.fget).replace("\n", " ")


def _text(node: ast.stmt | None) -> str:
    """The text of a string that stands alone; none for anything else."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def signature(function: Any, name: str | None = None) -> str:
    """How a function is called, as its source says it, without what binds it to its class."""
    node = _parsed(inspect.unwrap(function))
    if node.args.args and node.args.args[0].arg in ("self", "cls"):
        node.args.args.pop(0)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"{name or node.name}({ast.unparse(node.args)}){returns}"


def _parsed(of: Any) -> Any:
    """The syntax tree of a function or a class."""
    return ast.parse(textwrap.dedent(inspect.getsource(of))).body[0]


def code(text: str) -> str:
    """A signature as a block of code, broken behind commas where it is long."""
    if len(text) > _WIDTH:
        head, _, rest = text.partition("(")
        inner, _, tail = rest.rpartition(")")
        arguments = "".join(f"    {argument},\n" for argument in _arguments(inner))
        text = f"{head}(\n{arguments}){tail}"
    return f"```python\n{text}\n```"


def _arguments(text: str) -> list[str]:
    """The arguments in a signature, cut at the commas that stand in no bracket."""
    found = [""]
    depth = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [part.strip() for part in found]


def told(of: Any) -> str:
    """The docstring as Markdown: what stands indented in it is code."""
    return re.sub(r"(?:^    .*\n?)+", _fenced, inspect.getdoc(of) or "", flags=re.MULTILINE)


def _fenced(lines: re.Match[str]) -> str:
    return f"```\n{textwrap.dedent(lines[0]).rstrip()}\n```\n"


def _tree() -> str:
    """The tree that the errors' module draws."""
    lines = (errors.__doc__ or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
