"""Builds the optional extension `everlong._native` beside the package's source.

hatchling runs this as a hook when everlong is installed or a wheel is made; `python native/build.py` runs it by hand.
Without a compiler, or with EVERLONG_NATIVE=0, everlong is installed without the extension and works in torch alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "src" / "everlong"
FLAGS = ["-O3", "-g0", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math"]
"""None about the processor: kernels for each set of instructions name it themselves, and are chosen at run time."""


def build() -> Path:
    """The extension, compiled anew; whatever the compiler raises where there is none or the sources do not suit it."""
    from setuptools import Distribution, Extension

    module = Extension(
        "everlong._native",
        sorted(str(path) for path in HERE.glob("*.c")),
        extra_compile_args=FLAGS,
        libraries=["dl"] if sys.platform.startswith("linux") else [],
    )
    with tempfile.TemporaryDirectory() as objects:
        command: Any = Distribution({"ext_modules": [module]}).get_command_obj("build_ext")
        command.build_temp = objects
        command.build_lib = str(PACKAGE.parent)
        command.ensure_finalized()
        command.run()
        return Path(command.get_ext_fullpath(module.name))


def built() -> Path | None:
    """The extension, or None where it is not wanted or cannot be compiled, which is said."""
    if os.environ.get("EVERLONG_NATIVE", "").lower() in ("0", "off", "no", "false"):
        return None
    try:
        return build()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a compiler's absence looks like)
        print(f"everlong: no C extension ({type(error).__name__}: {error}); works in torch alone", file=sys.stderr)
        return None


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    pass
else:

    class NativeHook(BuildHookInterface):
        """Puts the extension into the wheel, which is then one of a platform."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile before the files are gathered."""
            if self.target_name != "wheel" or (found := built()) is None:
                return
            build_data["artifacts"].append(f"/src/everlong/{found.name}")
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


if __name__ == "__main__":
    print(build())
