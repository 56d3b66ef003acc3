"""The package as a whole: its names, what importing it costs, its version."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import pkgutil
import subprocess
import sys

import pytest
import torch

import everlong
from tests.session.test_faults import in_a_child


def fresh(code: str) -> str:
    """What `code` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def anew(code: str) -> str:
    """What `code` prints where torch is imported and everlong is not, and no types are checked."""

    def work() -> str:
        for name in [name for name in sys.modules if name.partition(".")[0] == "everlong"]:
            del sys.modules[name]
        sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("jaxtyping")]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, {})
        return said.getvalue().strip()

    return in_a_child(work)


def test_import_is_light():
    loaded = fresh(
        "import everlong, sys; print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    assert loaded == "[]"


SETTINGS = """
import importlib, pathlib, sys
import everlong, everlong.config, everlong.methods
from everlong.storage.known import CODECS, STORES

folder = pathlib.Path(everlong.methods.__file__).parent
for file in [*folder.glob("*.py"), *folder.glob("*/settings.py"), *folder.glob("*/fields.py")]:
    parts = file.relative_to(folder.parent).with_suffix("").parts
    importlib.import_module(".".join(("everlong", *parts)).removesuffix(".__init__"))
for name in everlong.methods.method_names():
    everlong.methods.make_method(name).recipe()
everlong.methods.make_method("blocks", everlong.config.parse_options(["codec=int4", "stored_in=disk", "top_k=3"]))
CODECS.names(), STORES.names()
for wrong in ({"codec": "int9"}, {"stored_in": "nowhere"}, {"top_k": 0}):
    try:
        everlong.Blocks(**wrong)
    except everlong.EverlongError as error:
        print(error)
print([m for m in ("torch", "transformers", "numpy", "jaxtyping") if m in sys.modules])
"""


def test_settings_are_made_without_torch():
    lines = fresh(SETTINGS).splitlines()
    assert [line.split(":")[0] for line in lines] == ["codec 'int9'", "store 'nowhere'", "top_k=0", "[]"]


def test_every_public_name_is_there():
    for name in everlong.__all__:
        assert getattr(everlong, name) is not None
    assert dir(everlong) == sorted(everlong.__all__)


def test_no_public_name_is_a_folder_too():
    folders = {module.name for module in pkgutil.iter_modules(everlong.__path__)}
    assert not folders & set(everlong.__all__)


WRONG = {
    "e.Sinks(window=1.5)": "window=1.5: expected a whole number of at least 1 (tokens kept",
    "e.Sinks(window='3')": "window='3': expected a whole number",
    "e.Sinks(sinks=None)": "sinks=None: expected a whole number of at least 0",
    "e.Window(window=True)": "window=True: expected a whole number",
    "e.Blocks(top_k=2.5)": "top_k=2.5: expected a whole number",
    "e.Blocks(score_decay='x')": "score_decay='x': must be above 0",
    "e.Blocks(codec=8)": "codec 8: does not exist; known: bfloat16, int4, int8, native",
    "e.Blocks(codec=['int8'])": "codec ['int8']: does not exist; did you mean 'int8'?",
    "e.load(None)": "model None: expected a folder, a GGUF file, a hub id such as ",
    "e.load(3)": "model 3: expected a folder",
    "e.load([])": "model []: expected a folder",
    "e.load(b'x')": "model b'x': expected a folder",
    "e.Session((None, None), e.Sinks())": "model: got NoneType, expected what everlong.load gave",
    "e.Session('smollm2', e.Sinks())": "model: got str, expected what everlong.load gave",
    "e.Session((None, None))": "method=None: expected a method such as everlong.Sinks",
    "S(seed=1.5)": "seed=1.5: expected a whole number",
    "S(seed='7')": "seed='7': expected a whole number",
    "S(max_new_tokens=1.5)": "max_new_tokens=1.5: expected a whole number",
    "S(max_new_tokens=True)": "max_new_tokens=True: expected a whole number",
    "S(temperature='hot')": "temperature='hot': expected a number",
    "S(repetition_penalty=None)": "repetition_penalty=None: expected a number",
    "S(stop=3)": "stop=3: expected a text",
    "S(stop=[1])": "stop=[1]: expected a text",
}
"""What a user may type, and how the line begins that says what is wrong with it."""


def test_values_of_another_type_are_one_line():
    """Without the check of types: with it they are refused before everlong can say anything."""
    code = f"""
import everlong as e
from everlong.engine.sampling import Sampling as S
for wrong in {list(WRONG)}:
    try:
        eval(wrong)
        print("nothing")
    except e.EverlongError as error:
        print(error)
"""
    said = anew(code).splitlines()
    assert len(said) == len(WRONG)
    for line, begin in zip(said, WRONG.values(), strict=True):
        assert line.startswith(begin)


def test_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match=r"no attribute 'Sink'; it has .*Sinks"):
        everlong.Sink  # noqa: B018


def test_version_is_the_installed_one():
    assert importlib.metadata.version("everlong") == everlong.__version__


def test_fresh_memory_is_nan():
    assert torch.empty(3).isnan().all()
