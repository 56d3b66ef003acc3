"""The text of an upload, taken out of it in a process of its own: with so much memory and time, and no more."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everlong.cli.console import Console
from everlong.cli.documents import File, check, document
from everlong.errors import EverlongError, InputError
from everlong.session.document import Document
from everlong.text.places import Place


@dataclass(frozen=True)
class ExtractLimits:
    """What taking the text out of one file may take."""

    memory_bytes: int = 4 * 2**30
    """Of address space: much of it is shared and never used."""
    seconds: int = 600
    text_bytes: int = 512 * 2**20
    """Of the text that comes out: a small file may hold a very long one."""


def extracted(path: Path, name: str, limits: ExtractLimits, console: Console) -> Document:
    """A file as a document whose text is there already; InputError where it holds none, or needs more than it may."""
    command = [sys.executable, "-m", "everlong.cli.extract", str(path), name, json.dumps(asdict(limits))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        late = threading.Timer(limits.seconds, process.kill)
        late.start()
        try:
            return _taken(name, _answers(process, limits), console)
        except ValueError as error:
            if isinstance(error, EverlongError):
                raise
            raise _too_much(name, limits) from error
        finally:
            late.cancel()
            process.kill()


def _answers(process: subprocess.Popen[bytes], limits: ExtractLimits) -> Iterator[dict[str, Any]]:
    """What the other process says, up to its end; ValueError where it was cut off."""
    assert process.stdout is not None
    size = 0
    for line in process.stdout:
        size += len(line)
        if size > limits.text_bytes:
            raise ValueError("too long a text")
        said = json.loads(line)
        yield said
        if "places" in said or "error" in said:
            return
    raise ValueError("ended early")


def _taken(name: str, answers: Iterator[dict[str, Any]], console: Console) -> Document:
    facts: dict[str, Any] = {}
    texts: list[str] = []
    for said in answers:
        if "error" in said:
            raise InputError(said["error"])
        if "warning" in said:
            console.warn(f"{name}: {said['warning']}")
        texts += [said["text"]] if "text" in said else []
        facts |= {key: value for key, value in said.items() if key not in ("text", "warning")}
    places = [Place(**place) for place in facts.pop("places")]
    return Document(name, texts=texts, places=places, **facts)


def _too_much(name: str, limits: ExtractLimits) -> InputError:
    memory, text = limits.memory_bytes / 2**30, limits.text_bytes / 2**20
    return InputError(
        f"{name}: its text cannot be had within {memory:.1f} GB of memory and {limits.seconds} s, or is longer than "
        f"{text:.0f} MB; send it in parts, or as plain text"
    )


def main() -> None:
    """Say, a line of JSON each: what the document is, its text piece by piece, and its places or what is wrong."""
    path, name, given = sys.argv[1:]
    limits = ExtractLimits(**json.loads(given))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 1))
    file = File(Path(path), name, name)
    try:
        check(file)
        found = document(file, _Console())
        _say(digest=found.digest, has_lines=found.has_lines, called=found.called)
        for text in found.texts:
            _say(text=text)
        _say(places=[asdict(place) for place in found.places])
    except EverlongError as error:
        _say(error=str(error))


class _Console(Console):
    """Says warnings in a line of their own."""

    def __init__(self) -> None:
        super().__init__(True, False)

    def warn(self, text: str) -> None:
        """Say a warning."""
        _say(warning=text)


def _say(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
