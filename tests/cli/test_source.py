"""Text from files: kept as it is, invalid UTF-8 replaced and counted, binary files refused."""

from __future__ import annotations

import codecs
import io
import sys

import pytest

from everlong.cli import source
from everlong.cli.source import TextSource
from everlong.errors import ConfigError, InputError


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
        ("a genuine \ufffd".encode(), 0),
        ("é è à, mostly as it must be: ".encode() + b"\xe9 \xff", 2),
        (b"cut \xe6\x97", 1),
        ("日本".encode() + b"\xe6\x97x \xef\xbf\xbd \xef\xbf", 2),
        (b"\xf0\x9f\x99\x82\xf0\x9f\x99", 1),
    ],
)
def test_text_is_what_python_decodes_and_replacements_are_counted(tmp_path, content, replaced):
    text, opened = read(tmp_path / "file", content)
    assert text == content.decode("utf-8", errors="replace")
    assert opened.replaced == replaced
    assert opened.read_bytes == opened.total_bytes == len(content)
    assert (opened.warnings() == []) == (replaced == 0)


def test_the_warning_has_the_count(tmp_path):
    _, opened = read(tmp_path / "file", "é".encode() * 2000 + b"\xff" * 1234)
    assert opened.warnings() == ["1,234 invalid UTF-8 sequences were replaced by U+FFFD"]


FRENCH = "Les élèves étaient déjà rentrés à l’école ; le café coûtait très cher — 5 €.\r\n"
GERMAN = "Die Straße führt über die Brücke zu den Häusern. Größe zählt nicht.\n"
CHINESE = "今天天气很好，我们一起去公园散步吧。他说这本书很有意思。\n"
TAIWAN = "今天天氣很好，我們一起去公園散步吧。他說這本書很有意思。\n"
JAPANESE = "今日はとても良い天気です。私たちは公園を散歩しました。カタカナも①。\n"
KOREAN = "오늘은 날씨가 아주 좋습니다. 우리는 공원을 산책했습니다.\n"
RUSSIAN = "Привет, как дела? Сегодня хорошая погода в Москве.\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        (GERMAN, "latin-1"),
        (CHINESE, "gbk"),
        (CHINESE, "gb18030"),
        (TAIWAN, "big5"),
        (JAPANESE, "cp932"),
        (JAPANESE.replace("①", ""), "shift_jis"),
        (JAPANESE.replace("①", ""), "euc-jp"),
        (KOREAN, "euc-kr"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "cp1251"),
        ("A text in English, \U0001f642.\r\n", "utf-16-le"),
        ("A text in English.\n", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("times", [1, 300])
def test_what_is_no_utf_8_is_found_out_and_said(tmp_path, text, encoding, times):
    content = text * times
    found, opened = read(tmp_path / "file", content.encode(encoding))
    assert found == content
    (said,) = opened.warnings()
    assert said == f"is not UTF-8; read as {opened.charset.codec}, a guess (--encoding NAME overrules it)"


@pytest.mark.parametrize("block", [7, 65536])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
def test_a_mark_says_the_encoding_and_is_no_text(tmp_path, monkeypatch, encoding, mark, block):
    monkeypatch.setattr(source, "_BLOCK_BYTES", block)
    content = f"First, {CHINESE}\U0001f642 last\ufeff"
    found, opened = read(tmp_path / "file", mark + content.encode(encoding))
    assert found == content
    assert opened.charset.codec == encoding
    assert opened.warnings() == ([] if encoding == "utf-8" else [f"read as {encoding}"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8", "latin1", "UTF-16LE"])
def test_an_encoding_that_is_given_holds(tmp_path, encoding):
    content = "Größe"
    (tmp_path / "file").write_bytes(("\ufeff" if "8" in encoding else "").encode("utf-8") + content.encode(encoding))
    with TextSource(str(tmp_path / "file"), encoding) as opened:
        assert ["".join(opened), opened.warnings()] == [content, []]


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "", "no such"])
def test_an_encoding_that_is_none_is_refused(tmp_path, encoding):
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"no encoding of text; .*for example utf-8"):
        TextSource(str(tmp_path / "file"), encoding)


def test_the_end_of_a_latin_text_is_no_character_that_was_cut_off(tmp_path):
    assert read(tmp_path / "file", b"un caf\xe9")[0] == "un café"
    assert read(tmp_path / "file", b"un cafe \xe6\x97")[0] == "un cafe \ufffd"


def test_what_comes_late_is_seen_before_reading(tmp_path):
    content = "a plain line of English\n" * 20_000 + FRENCH * 3
    assert read(tmp_path / "file", content.encode("cp1252"))[0] == content


def test_only_the_first_bytes_are_read_and_counted(tmp_path):
    content = codecs.BOM_UTF8 + "é\U0001f642 and more".encode()
    (tmp_path / "file").write_bytes(content)
    with TextSource(str(tmp_path / "file"), size=9) as opened:
        assert "".join(opened) == "é\U0001f642"
        assert [opened.chars(size) for size in (0, 3, 5, 7, 9, 99)] == [0, 0, 1, 2, 2, 11]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; give a file with text"),
        (b"text\0text", r"a binary file \(a NUL byte at offset 4\)"),
        (bytes(range(1, 128)), r"a binary file \(control characters\)"),
        ("text\0text".encode("utf-16"), r"a binary file"),
        (b"{\\rtf1\\ansi text}", r"rich text \(RTF\), which is not read; save it as"),
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
