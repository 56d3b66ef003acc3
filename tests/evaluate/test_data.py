"""Benchmark files: found in the given place, read with one clear line about what is wrong."""

from __future__ import annotations

import pytest

from everlong.errors import InputError
from everlong.evaluate.data import Data, mapping, rows, text


def test_a_file_is_found_in_the_tasks_folder_in_the_folder_itself_or_as_the_place(tmp_path):
    (tmp_path / "kv").mkdir()
    inner, outer = tmp_path / "kv" / "b.jsonl", tmp_path / "a.jsonl"
    inner.write_text("{}\n")
    outer.write_text("{}\n")
    assert Data(tmp_path).files("kv", "*.jsonl") == [inner]
    assert Data(tmp_path / "kv").files("kv", "*.jsonl") == [inner]
    assert Data(tmp_path).files("other", "*.jsonl") == [outer]
    assert Data(outer).files("kv", "*.jsonl", "*.txt") == [outer]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("EVERLONG_DATA", raising=False)
    with pytest.raises(InputError, match=r"--data: missing; kv/\*.jsonl is needed"):
        Data.given(None).files("kv", "*.jsonl")
    with pytest.raises(InputError, match="no such file or folder"):
        Data.given(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no kv/\*.jsonl or \*.txt"):
        Data(tmp_path).files("kv", "*.jsonl", "*.txt")
    (tmp_path / "a.md").touch()
    with pytest.raises(InputError, match=r"expected \*.jsonl"):
        Data(tmp_path / "a.md").files("kv", "*.jsonl")


def test_the_environment_names_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_DATA", str(tmp_path))
    assert Data.given(None).path == tmp_path
    monkeypatch.setenv("EVERLONG_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"\$EVERLONG_DATA .*nowhere"):
        Data.given(None)


def test_rows_of_lines_and_of_a_list(tmp_path):
    lines, members = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text('{"a": 1}\n\n{"a": "\u2028"}\n')
    members.write_text('[{"a": 1}, {"a": 2}]')
    assert list(rows(lines, "a")) == [{"a": 1}, {"a": "\u2028"}]
    assert list(rows(members, "a")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": 1}\n{"b": 1}\n', r"a.jsonl:2: lacks the field 'a'"),
        ('{"a": 1}\n{"a": \n', r"a.jsonl:2: not JSON"),
        ('{"a": 1}\n3\n', r"a.jsonl:2: got int, expected an object"),
        ('[{"a": 1},\n {"a" 2}]', r"a.jsonl:2: not JSON"),
        ("[1]", r"a.jsonl:1: got int"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, content, says):
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=says) as error:
        list(rows(file, "a"))
    assert "\n" not in str(error.value)


def test_other_bytes_and_other_json(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"ab\xff")
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 2\)"):
        text(file)
    file.write_text("[1]")
    with pytest.raises(InputError, match="got list, expected an object"):
        mapping(file)
    file.write_text('{"a":\n}')
    with pytest.raises(InputError, match=r"a.json:2: not JSON"):
        mapping(file)
    file.write_text('{"a": 2}')
    assert mapping(file) == {"a": 2}
