"""The cache of converted GGUF files: made once, whole or not there, made again when damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from everlong.errors import LoadError
from everlong.hooks.adapter import load
from everlong.models import gguf
from tests.models.tiny import byte_tokenizer, save_gguf, tiny_model


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "home"))
    return tmp_path / "home" / "gguf"


def test_the_folder_of_sessions_does_not_move_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_HOME", str(tmp_path / "sessions"))
    assert gguf.cache_folder() == tmp_path / "home" / "gguf"
    monkeypatch.delenv("EVERLONG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert gguf.cache_folder() == tmp_path / "xdg" / "everlong" / "gguf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert gguf.cache_folder() == Path.home() / ".cache" / "everlong" / "gguf"


@pytest.fixture
def path(tmp_path):
    return save_gguf(tmp_path / "tiny.gguf")


def conversions(caplog) -> int:
    return sum("converting" in record.message for record in caplog.records)


def test_a_gguf_file_gives_the_model_it_was_made_of(path):
    loaded = load(path)
    ids = torch.arange(3, 40)[None]
    assert torch.equal(loaded.model(ids).logits, tiny_model()(ids).logits)
    assert loaded.tokenizer("ab é").input_ids == byte_tokenizer()("ab é").input_ids
    assert loaded.tokenizer.chat_template == byte_tokenizer().chat_template
    assert load(path, dtype="bfloat16").model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_second_load_converts_nothing(path, home, caplog):
    caplog.set_level(logging.INFO)
    first, second = load(path).model, load(path).model
    assert conversions(caplog) == 1
    assert [entry.name.startswith("tiny-") for entry in home.iterdir()] == [True]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_same_bytes_elsewhere_are_not_converted_again(path, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    load(path)
    (tmp_path / "sub").mkdir()
    load(path.rename(tmp_path / "sub" / "tiny.gguf"))
    assert conversions(caplog) == 1


def test_a_changed_file_is_converted_again(path, caplog):
    caplog.set_level(logging.INFO)
    load(path)
    changed = load(save_gguf(path, seed=1)).model
    assert conversions(caplog) == 2
    assert torch.equal(changed.lm_head.weight, tiny_model(seed=1).lm_head.weight)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "everlong.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_a_damaged_entry_is_made_again(path, home, caplog, name, damage):
    caplog.set_level(logging.INFO)
    load(path)
    (entry,) = home.iterdir()
    content = (entry / name).read_bytes()
    if damage == "gone":
        (entry / name).unlink()
    else:
        (entry / name).write_bytes(content[:-5] if damage == "short" else b"#" + content[1:])
    assert torch.equal(load(path).model.lm_head.weight, tiny_model().lm_head.weight)
    assert conversions(caplog) == 2
    assert list(home.iterdir()) == [entry]


def test_an_interrupted_conversion_leaves_nothing(path, home, monkeypatch):
    def interrupted(source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(path)
    assert list(home.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(path, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "file"))
    assert torch.equal(load(path).model.lm_head.weight, tiny_model().lm_head.weight)
    assert "tiny.gguf cannot be cached in" in caplog.text


@pytest.mark.parametrize("keep", [100, 20_000, -100])
def test_a_damaged_gguf_file_is_refused(path, home, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LoadError, match="transformers cannot read this GGUF file") as raised:
        load(path)
    assert "\n" not in str(raised.value)
    assert list(home.iterdir()) == []


def test_the_fingerprint_sees_size_start_middle_and_end(tmp_path):
    file = tmp_path / "file"
    content = bytearray(range(256)) * 1000
    prints = set()
    for at in (None, 0, 128_000, len(content) - 1):
        changed = bytearray(content)
        if at is not None:
            changed[at] ^= 1
        file.write_bytes(changed)
        prints.add(gguf.fingerprint(file))
    file.write_bytes(content[:-1])
    assert len(prints | {gguf.fingerprint(file)}) == 5
    file.write_bytes(b"")
    assert gguf.fingerprint(file)


def test_a_package_that_is_not_installed_has_no_file():
    assert gguf.package_gguf("no_such_package_here") is None
    assert gguf.package_gguf("json") is None
