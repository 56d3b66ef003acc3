"""The shape of the code in figures, and which of them pass their limits: `scripts/shape.py [--check]`.

Circles of imports (those for types and inside functions counted), classes of many methods, the public names of
Session, long files, class names that exist more than once, assignments that pack several things into one line
(`a, b = x, y`), questions for the concrete class of a store or a memory, and options of a dataclass that are listed a
second time. With `--check` the exit code is 1 where a figure is above its limit.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grimp

SOURCE = Path(__file__).resolve().parents[1] / "src" / "everlong"
MOST_METHODS, MOST_LINES, MOST_SHARED = 20, 300, 5
FACADE, MOST_NAMES = "Session", 47
"""The class that users work with, and how many names it may show, inherited ones included: never more than now."""
CONCRETE = {"HostStore", "DiskStore", "BlockMemory", "RecurrentMemory"}


class Figure(NamedTuple):
    """A figure, the most that it may be, and what it counts."""

    name: str
    value: float
    limit: float
    what: list[str]


def circles() -> list[str]:
    """The modules of each circle of imports."""
    graph = grimp.build_graph("everlong", cache_dir=None)
    follows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return [" ".join(sorted(found)) for found in _components(follows) if len(found) > 1]


def _components(follows: dict[str, set[str]]) -> Iterator[set[str]]:
    """The strongly connected components: two modules are in one where each is reached from the other."""
    reached = {module: _reached(module, follows) for module in follows}
    left = set(follows)
    while left:
        module = left.pop()
        together = {module} | {other for other in reached[module] if module in reached[other]}
        left -= together
        yield together


def _reached(module: str, follows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = follows[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


def figures() -> list[Figure]:
    """All of them."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    classes = [
        (path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    large = [f"{_at(path, node)} {node.name}: {n}" for path, node in classes if (n := _methods(node)) > MOST_METHODS]
    names = Counter(node.name for _, node in classes if not node.name.startswith("_"))
    twice = [f"{name}: {n}" for name, n in names.items() if n > 1]
    long = [f"{_short(path)}: {n}" for path in trees if (n := len(path.read_text().splitlines())) > MOST_LINES]
    assignments = [(p, node) for p, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    packed = [_at(path, node) for path, node in assignments if _is_packed(node)]
    asked = [_at(p, n) for p, tree in trees.items() for n in ast.walk(tree) if isinstance(n, ast.Call) and _asks(n)]
    copies = copied_options(trees)
    around = circles()
    return [
        Figure("circles of imports", len(around), 0, around),
        Figure(f"classes of over {MOST_METHODS} methods", len(large), 0, large),
        Figure(f"files of over {MOST_LINES} lines", len(long), 0, long),
        Figure("class names that exist twice", len(twice), 0, twice),
        Figure("isinstance on concrete stores and memories", len(asked), 0, asked),
        Figure(f"lists of over {MOST_SHARED} options that a dataclass has", len(copies), 0, copies),
        Figure(f"public names of {FACADE}", len(shown := sorted(public_names(FACADE, classes))), MOST_NAMES, shown),
        Figure("packed assignments, % of all", round(100 * len(packed) / len(assignments), 1), 2.0, packed),
    ]


def _methods(node: ast.ClassDef) -> int:
    return len({part.name for part in node.body if isinstance(part, ast.FunctionDef)})


def public_names(name: str, classes: list[tuple[Path, ast.ClassDef]]) -> set[str]:
    """The methods and properties without an underscore of a class of ours and of those that it is made from."""
    found: set[str] = set()
    for node in (node for _, node in classes if node.name == name):
        found |= {part.name for part in node.body if isinstance(part, ast.FunctionDef) and part.name[0] != "_"}
        for base in node.bases:
            if isinstance(base, ast.Name):
                found |= public_names(base.id, classes)
    return found


def _is_packed(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def _asks(node: ast.Call) -> bool:
    if not (isinstance(node.func, ast.Name) and node.func.id == "isinstance" and len(node.args) == 2):
        return False
    return any(isinstance(part, ast.Name) and part.id in CONCRETE for part in ast.walk(node.args[1]))


def copied_options(trees: dict[Path, ast.Module]) -> list[str]:
    """The classes, and the literals in other files, that name over MOST_SHARED of the options of a dataclass."""
    classes = [(p, n) for p, tree in trees.items() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    exprs = [(p, n) for p, tree in trees.items() for n in ast.walk(tree) if isinstance(n, ast.expr)]
    literals = [(p, n, words) for p, n in exprs if len(words := _words(n)) > MOST_SHARED]
    found = []
    for path, owner in classes:
        options = {name for part in owner.body if (name := _option(part))}
        if len(options) <= MOST_SHARED:
            continue
        again: list[tuple[Path, ast.stmt | ast.expr, set[str]]] = []
        again += [(p, n, _declared(n)) for p, n in classes if n is not owner]
        again += [(p, n, words) for p, n, words in literals if p != path]
        found += [f"{_at(p, n)} those of {owner.name}" for p, n, names in again if len(names & options) > MOST_SHARED]
    return found


def _option(part: ast.stmt) -> str:
    """The name in `name: type = field(..., metadata=...)`; "" for another line of a class."""
    if not (isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and isinstance(part.value, ast.Call)):
        return ""
    return part.target.id if any(keyword.arg == "metadata" for keyword in part.value.keywords) else ""


def _declared(node: ast.ClassDef) -> set[str]:
    """The annotated names of a class, and its properties."""
    fields = {p.target.id for p in node.body if isinstance(p, ast.AnnAssign) and isinstance(p.target, ast.Name)}
    return fields | {p.name for p in node.body if isinstance(p, ast.FunctionDef) and p.decorator_list}


def _words(node: ast.expr) -> set[str]:
    """The strings that a literal holds, or that are the keys of one."""
    parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def _short(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def _at(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{_short(path)}:{node.lineno}"


def main() -> int:
    """Print the figures, and with --check what passes its limit."""
    check, bad = "--check" in sys.argv, 0
    for figure in figures():
        over = figure.value > figure.limit
        bad += over
        print(f"{figure.value:>6g}  (at most {figure.limit:g})  {figure.name}")
        if over and (check or "--list" in sys.argv):
            print("\n".join(f"          {line}" for line in figure.what[:40]))
    return int(check and bad > 0)


if __name__ == "__main__":
    sys.exit(main())
