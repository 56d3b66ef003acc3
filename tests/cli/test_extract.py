"""Uploads are opened in a process of its own, with limits."""

from __future__ import annotations

import pytest

from everlong.cli import extract
from everlong.cli.console import Console
from everlong.cli.documents import File, document
from everlong.errors import InputError

QUIET = Console(True, False)
LIMITS = extract.ExtractLimits()


def test_the_text_of_an_upload_is_that_of_the_file(tmp_path):
    path = tmp_path / "upload.md"
    path.write_text("# Tide\n\nIt rose.\n\n## Pier\n\nGulls é cried.\n" * 40)
    here = document(File(path, "book.md", "book.md"), QUIET)
    texts = list(here.texts)
    found = extract.extracted(path, "book.md", LIMITS, QUIET)
    assert "".join(found.texts) == "".join(texts)
    assert (found.name, found.digest, found.has_lines) == (here.name, here.digest, here.has_lines)
    assert found.places == here.places


def test_what_needs_too_much_or_holds_no_text_is_refused(tmp_path):
    path = tmp_path / "upload.txt"
    path.write_text("The tide rose. " * 4000)
    few = extract.ExtractLimits(text_bytes=1000)
    with pytest.raises(InputError, match=r"book\.txt: its text cannot be had within"):
        extract.extracted(path, "book.txt", few, QUIET)
    with pytest.raises(InputError, match="cannot be had within"):
        extract.extracted(path, "book.txt", extract.ExtractLimits(memory_bytes=2**20), QUIET)
    path.write_bytes(bytes(range(256)) * 50)
    with pytest.raises(InputError, match=r"book\.txt"):
        extract.extracted(path, "book.txt", LIMITS, QUIET)


def test_what_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(extract.sys, "executable", "/bin/sleep")
    with pytest.raises(InputError, match="cannot be had within"):
        extract.extracted(tmp_path / "x", "book.txt", extract.ExtractLimits(seconds=0), QUIET)
