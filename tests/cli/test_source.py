"""Text from files: kept as it is, invalid UTF-8 replaced and counted, binary files refused."""

from __future__ import annotations

import io
import sys

import pytest

from everlong.cli import source
from everlong.cli.source import TextSource
from everlong.errors import InputError


@pytest.fixture(params=[1, 2, 3, 7, 65536])
def _blocks(request, monkeypatch):
    """Blocks so short that characters are cut in the middle."""
    monkeypatch.setattr(source, "_BLOCK_BYTES", request.param)


def read(path, content: bytes) -> tuple[str, TextSource]:
    path.write_bytes(content)
    with TextSource(str(path)) as opened:
        return "".join(opened), opened


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    ("content", "replaced"),
    [
        (b"plain, no final newline", 0),
        ("déjà vu — 日本 🙂\r\n\n".encode(), 0),
        ("\ufeffwith a mark and a genuine \ufffd".encode(), 0),
        (b"caf\xe9 au lait", 1),
        (b"a\xff\xfeb", 2),
        (b"cut \xe6\x97", 1),
        (b"\xe6\x97x \xef\xbf\xbd \xef\xbf", 2),
        (b"\xf0\x9f\x99\x82\xf0\x9f\x99", 1),
    ],
)
def test_text_is_what_python_decodes_and_replacements_are_counted(tmp_path, content, replaced):
    text, opened = read(tmp_path / "file", content)
    assert text == content.decode("utf-8", errors="replace")
    assert opened.replaced == replaced
    assert opened.read_bytes == opened.total_bytes == len(content)
    assert (opened.warning() is None) == (replaced == 0)


def test_the_warning_has_the_count(tmp_path):
    _, opened = read(tmp_path / "file", b"\xff" * 1234)
    assert opened.warning() == f"{tmp_path / 'file'}: 1,234 invalid UTF-8 sequences were replaced by U+FFFD"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; give a file with text"),
        (b"text\0text", r"a binary file \(a NUL byte at offset 4\)"),
        (bytes(range(1, 256)), r"a binary file \(control characters\)"),
    ],
)
def test_what_is_not_text_is_refused_at_once(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path / "file", content)


def test_a_nul_byte_further_on_is_refused_when_it_comes(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000 + b"\0")
    with (
        TextSource(str(tmp_path / "file")) as opened,
        pytest.raises(InputError, match="a NUL byte at offset 100,000"),
    ):
        list(opened)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="absent: No such file or directory; give the path of a text file, or -"):
        TextSource(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="Is a directory"):
        TextSource(str(tmp_path))


def test_a_dash_is_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("héllo".encode())))
    opened = TextSource("-")
    assert "".join(opened) == "héllo"
    assert (opened.name, opened.total_bytes) == ("stdin", None)
