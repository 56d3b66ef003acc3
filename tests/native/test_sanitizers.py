"""The C kernels alone, compiled with the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "native"


@pytest.mark.slow(reason="compiles the kernels anew; tests/ops/test_packed.py runs them as they are installed")
@pytest.mark.parametrize(
    ("check", "kernels"),
    [
        ("check_linear.c", ("linear.c",)),
        ("check_gguf.c", ("gguf.c",)),
        ("check_masses.c", ("masses.c",)),
        ("check_attention.c", ("attention.c", "reading.c", "program.c", "token.c", "linear.c")),
    ],
)
def test_kernels_stay_within_their_memory(tmp_path, check, kernels):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    program = tmp_path / "check"
    sources = [HERE / check, *(NATIVE / name for name in kernels), NATIVE / "cpu.c"]
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [compiler, *flags, "-I", NATIVE, *sources, "-o", program, "-lm", "-ldl"],
        check=False,
        capture_output=True,
        text=True,
    )
    if "cannot find" in built.stderr or "unsupported option" in built.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 failed" in ran.stdout
