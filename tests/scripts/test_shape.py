"""What scripts/shape.py finds."""

from __future__ import annotations

import ast

from scripts import shape

NAMES = ("block", "top_k", "pool", "keep", "codec", "evict")
SETTINGS = "class Settings:\n" + "".join(f"    {n}: int = field(default=1, metadata={{'help': ''}})\n" for n in NAMES)
PROTOCOL = "class Wanted:\n" + "".join(f"    @property\n    def {n}(self): ...\n" for n in NAMES)


def copies(*sources):
    """What is found in these files."""
    root = shape.SOURCE
    return shape.copied_options({root / f"{n}.py": ast.parse(source) for n, source in enumerate(sources)})


def test_a_protocol_a_class_and_a_literal_with_the_options_of_a_dataclass_are_found():
    other = "class Other:\n" + "".join(f"    {name}: int\n" for name in NAMES)
    assert copies(SETTINGS, PROTOCOL) == ["1.py:1 those of Settings"]
    assert copies(SETTINGS, other) == ["1.py:1 those of Settings"]
    assert copies(SETTINGS, f"\nHELP = {dict.fromkeys(NAMES, '')}") == ["1.py:2 those of Settings"]
    assert copies(SETTINGS, f"names = {NAMES}") == ["1.py:1 those of Settings"]


def test_what_has_some_names_in_common_is_no_copy():
    few = PROTOCOL.replace("evict", "other")
    assert copies(SETTINGS, few, "names = ['block', 'pool']", f"{NAMES[:5]}") == []
    assert copies(f"{SETTINGS}\n{NAMES}") == []


def test_block_memory_has_one_list_of_options():
    trees = {path: ast.parse(path.read_text()) for path in sorted((shape.SOURCE / "methods").rglob("*.py"))}
    assert shape.copied_options(trees) == []


def test_public_names_are_those_of_a_class_and_of_what_it_is_made_from():
    source = "class A:\n    def one(self): ...\n    def _two(self): ...\n"
    source += "class B(A, dict):\n    @property\n    def three(self): ...\n    def one(self): ...\n"
    tree = ast.parse(source)
    classes = [(shape.SOURCE / "a.py", node) for node in tree.body if isinstance(node, ast.ClassDef)]
    assert shape.public_names("B", classes) == {"one", "three"}
