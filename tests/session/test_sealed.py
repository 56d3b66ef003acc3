"""The file of a saved session: written wholly or not at all, and no changed byte is ever read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everlong.errors import DamagedError, InputError, SaveError
from everlong.library import state_file as sealed

from .conftest import interrupt, names

TENSORS = {
    "a": torch.arange(60.0).reshape(3, 20),
    "half": torch.randn(7, 5).bfloat16(),
    "ids": torch.arange(9),
    "none": torch.empty(0, 4),
}
DOCUMENT = {"name": "naïve \N{SNOWMAN}", "numbers": [1, 2.5], "deep": {"digest": "0" * 64}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "stream.session"
    sealed.write(place, TENSORS, DOCUMENT)
    return place


def test_what_is_read_is_what_was_written(path):
    tensors, document = sealed.read(path)
    assert document == DOCUMENT
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        name: (t.dtype, t.shape) for name, t in TENSORS.items()
    }
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert names(path.parent) == [path.name]


def test_views_and_shared_tensors_are_written_apart(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    views = {"all": base, "same": base, "column": base[:, 1], "turned": base.T}
    sealed.write(tmp_path / "x", views, {})
    found, _ = sealed.read(tmp_path / "x")
    assert all(torch.equal(found[name], views[name]) for name in views)


def test_any_changed_byte_is_found(path):
    """Every byte of the header, and bytes all over the data, each changed in a few ways."""
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(header), *random.Random(0).sample(range(header, len(whole)), 60), len(whole) - 1]
    for place in places:
        for change in (0x01, 0x20, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            with pytest.raises(DamagedError):
                sealed.read(path)
    path.write_bytes(whole)
    sealed.read(path)


def test_any_other_length_is_found(path):
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, 300, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            sealed.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedError):
        sealed.read(path)


@pytest.mark.parametrize("content", [b"", b"hello, this is a text\n" * 100, b"\xff" * 64])
def test_another_file_is_not_a_session(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DamagedError, match="not a saved session, or damaged"):
        sealed.read(tmp_path / "x")


def test_a_safetensors_file_of_others_is_not_a_session(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, tmp_path / "x", {"format": "pt"})
    with pytest.raises(DamagedError, match="not a saved session, or damaged"):
        sealed.read(tmp_path / "x")


def test_a_missing_file_is_an_input_error_in_one_line(tmp_path):
    with pytest.raises(InputError, match="No such file or directory; give the path of a saved session") as caught:
        sealed.read(tmp_path / "none")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="Is a directory"):
        sealed.read(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # cut off on its way out of a `with`
def test_an_interrupt_at_any_line_leaves_the_old_file_or_the_new_one(path):
    """KeyboardInterrupt at each line that runs: never half a file, never a temporary one."""
    old, newer = path.read_bytes(), {**DOCUMENT, "name": "newer"}
    with interrupt() as lines:
        sealed.write(path, TENSORS, newer)
    found = []
    for at in range(1, lines[0] + 1):
        path.write_bytes(old)
        with pytest.raises(KeyboardInterrupt), interrupt(at):
            sealed.write(path, TENSORS, newer)
        assert names(path.parent) == [path.name]
        found.append(sealed.read(path)[1]["name"])
    assert set(found) == {DOCUMENT["name"], "newer"}


def test_a_failing_disk_leaves_the_old_file(path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaveError, match="No space left on device; nothing was written") as caught:
        sealed.write(path, TENSORS, {"name": "newer"})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert names(path.parent) == [path.name]
    assert sealed.read(path)[1] == DOCUMENT


def test_a_file_that_may_not_grow_leaves_nothing(tmp_path):
    """The real thing: the system refuses the write in the middle (as a full disk does)."""
    code = (
        "import resource, sys, torch; from pathlib import Path; from everlong.library import state_file as sealed\n"
        "from everlong.errors import SaveError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: sealed.write(Path(sys.argv[1]), {'a': torch.zeros(100_000)}, {})\n"
        "except SaveError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x"], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["/proc/stream.session", "/nowhere/at/all/x", "/etc/hostname/x"])
def test_a_folder_that_cannot_be_written_is_a_save_error(place):
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc, a folder in which nobody may write")
    with pytest.raises(SaveError, match="nothing was written"):
        sealed.write(Path(place), TENSORS, DOCUMENT)


def test_a_folder_in_the_place_of_the_file_stays(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(SaveError, match="x: Is a directory; nothing was written"):
        sealed.write(tmp_path / "x", TENSORS, DOCUMENT)
    assert names(tmp_path) == ["x"]


def test_a_document_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(SaveError, match="not JSON compliant"):
        sealed.write(tmp_path / "x", TENSORS, {"x": float("nan")})
    assert names(tmp_path) == []
