"""What a command runs on: processor, memory, versions, time."""

from __future__ import annotations

import datetime as dt
import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from everlong.version import __version__

_HALF_FLAGS = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16"},
    torch.float16: {"avx512_fp16", "amx_fp16"},
}
_WANTED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16")


def machine() -> dict[str, Any]:
    """The machine by name of part; what is not known is left out."""
    facts = _cpu_facts()
    flags = [flag for flag in _WANTED_FLAGS if flag in facts.get("flags", facts.get("Features", "")).split()]
    found = {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "processor": facts.get("model name"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "cpu_flags": " ".join(flags) or None,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {name: value for name, value in found.items() if value is not None}


@functools.cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether the processor has instructions for products of this half type; False where that is not known."""
    flags = set(_cpu_facts().get("flags", "").split())
    return not flags.isdisjoint(_HALF_FLAGS.get(dtype, ()))


def versions() -> dict[str, str]:
    """The versions that decide what comes out."""
    return {"everlong": __version__, "torch": torch.__version__, "transformers": version("transformers")}


def circumstances() -> str:
    """Date, machine and versions in one line, to stand beside a figure."""
    here = machine()
    names = ", ".join(f"{name} {version}" for name, version in versions().items())
    day = dt.datetime.now(dt.UTC).date().isoformat()
    place = [here[part] for part in ("cuda", "processor" if "processor" in here else "system") if part in here]
    return f"{day}; {', '.join(place)}, {here['cores']} cores, {here['threads']} threads; {names}"


def _cpu_facts() -> dict[str, str]:
    """The first processor in /proc/cpuinfo, where there is one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory_bytes() -> int | None:
    """The machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def reset_peak_rss() -> bool:
    """Begin a new measurement of `peak_rss_bytes`; False where the system offers none (not Linux, no permission)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_rss_bytes() -> int | None:
    """The most memory of this process that was in RAM since the last reset; None where that is not known."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def commit(folder: Path) -> str | None:
    """The git commit of the checkout that `folder` lies in, with "+" behind it if files differ; None where none is."""
    try:
        found = _git(folder, "rev-parse", "HEAD")
        return found + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
