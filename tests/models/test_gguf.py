"""GGUF files: the model that they were made of, straight from the file; what is kept is small, whole, and made once."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf as format
import numpy as np
import pytest
import torch

from everlong.errors import LoadError
from everlong.hooks.adapter import load
from everlong.models import gguf, gguf_outline, gguf_tensors
from everlong.models.fingerprint import checkpoint_digest, fingerprint
from everlong.models.load import load_tokenizer
from everlong.ops import gguf_blocks
from tests.models.tiny import byte_tokenizer, save_folder, save_gguf, tiny_model

KINDS = format.GGMLQuantizationType
IDS = torch.arange(3, 40)[None]


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


def readings(caplog) -> int:
    return sum("reading the tokenizer" in record.message for record in caplog.records)


def test_a_gguf_file_gives_the_model_it_was_made_of(path):
    loaded = load(path)
    assert torch.equal(loaded.model(IDS).logits, tiny_model()(IDS).logits)
    assert loaded.tokenizer("ab é").input_ids == byte_tokenizer()("ab é").input_ids
    assert loaded.tokenizer.chat_template == byte_tokenizer().chat_template
    assert load(path, dtype="bfloat16").model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert loaded.model.generation_config.eos_token_id == 2
    assert not loaded.model.training
    assert loaded.model.config.dtype == torch.float32
    assert load_tokenizer(path)("ab é").input_ids == byte_tokenizer()("ab é").input_ids


@pytest.mark.parametrize("kind", [KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q5_0, KINDS.Q4_0, KINDS.Q4_1], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_those_that_transformers_reads(tmp_path, kind, dtype):
    """The same bits in the same places; rows of queries and keys are in another order in the file."""
    path = save_gguf(tmp_path / "tiny.gguf", kind=kind)
    want = gguf.by_transformers(path, getattr(torch, dtype)).state_dict()
    found = load(path, dtype=dtype).model.state_dict()
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) and found[name].dtype == want[name].dtype for name in want)


@pytest.mark.parametrize("tied", [True, False])
def test_heads_that_share_the_embedding_share_it(tmp_path, tied):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q8_0, tied=tied)
    model = load(path).model
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model.config.tie_word_embeddings == tied
    packed = load(path, weights="int8").model
    assert packed.lm_head.form == "q8"
    assert checkpoint_digest(packed) == checkpoint_digest(model)


def test_nothing_but_the_tokenizer_is_kept_and_it_is_read_once(path, home, caplog):
    caplog.set_level(logging.INFO)
    first, second = load(path).model, load(path, "bfloat16", weights="int4").model
    assert readings(caplog) == 1
    (entry,) = home.iterdir()
    assert entry.name.startswith("tiny-")
    assert {file.suffix for file in entry.iterdir()} == {".json", ".jinja"}
    assert fingerprint(first, None)["configuration"] == fingerprint(second, None)["configuration"]


def test_the_same_bytes_elsewhere_are_known_again(path, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    load(path)
    (tmp_path / "sub").mkdir()
    load(path.rename(tmp_path / "sub" / "tiny.gguf"))
    assert readings(caplog) == 1


def test_a_changed_file_is_read_again(path, caplog):
    caplog.set_level(logging.INFO)
    load(path)
    changed = load(save_gguf(path, seed=1)).model
    assert readings(caplog) == 2
    assert torch.equal(changed.lm_head.weight, tiny_model(seed=1).lm_head.weight)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "everlong.json"])
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
    assert readings(caplog) == 2
    assert list(home.iterdir()) == [entry]


def test_an_interrupted_reading_leaves_nothing(path, home, monkeypatch):
    def interrupted(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(path)
    assert list(home.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(path, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "file"))
    assert torch.equal(load(path).model.lm_head.weight, tiny_model().lm_head.weight)
    assert "its tokenizer cannot be kept in" in caplog.text


@pytest.mark.parametrize("keep", [100, 2_000, 20_000, -100])
def test_a_damaged_gguf_file_is_refused(path, home, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LoadError, match="this GGUF file") as raised:
        load(path)
    assert "\n" not in str(raised.value)
    assert all(not entry.name.startswith(".") for entry in home.iterdir())


def test_what_a_file_lacks_is_said(tmp_path):
    with pytest.raises(
        LoadError, match=r"1 weights are not in this GGUF file \(model\.layers\.1\.mlp\.up_proj\.weight\)"
    ):
        load(save_gguf(tmp_path / "a.gguf", without="layers.1.mlp.up_proj"))


def test_rotations_that_transformers_does_not_read_are_said(tmp_path, caplog):
    load(save_gguf(tmp_path / "a.gguf", extra={"rope_freqs.weight": np.ones(4, np.float32)}))
    assert "rotates with factors of its own" in caplog.text


def test_outlines_say_what_the_whole_file_says(path, monkeypatch, caplog):
    """Configuration and tokenizer by way of the small file, and by transformers from the whole one."""
    caplog.set_level(logging.DEBUG)
    header = gguf.read_header(path)
    config, tokenizer = gguf_outline.read_config(path, header), gguf_outline.read_tokenizer(path, header)
    assert "whole file" not in caplog.text
    monkeypatch.delattr(gguf_outline, "_outline")
    whole = gguf_outline.read_config(path, header)
    assert "whole file" in caplog.text
    assert config.to_diff_dict() == whole.to_diff_dict()
    other = gguf_outline.read_tokenizer(path, header)
    assert (type(tokenizer), tokenizer.backend_tokenizer.to_str()) == (type(other), other.backend_tokenizer.to_str())
    assert tokenizer.special_tokens_map == other.special_tokens_map


def test_without_the_extension_weights_are_the_same(tmp_path, monkeypatch):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q5_0)
    want = load(path, weights="file").model
    monkeypatch.setattr(gguf_blocks, "extension", lambda: None)
    assert fingerprint(load(path, weights="file").model, None) == fingerprint(want, None)


def test_architectures_that_transformers_reads_quickly_are_left_to_it(tmp_path, monkeypatch):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q8_0)
    want = load(path, weights="int8").model
    monkeypatch.setattr(gguf, "is_read_here", lambda header: False)
    found = load(path, weights="int8").model
    assert torch.equal(found(IDS).logits, want(IDS).logits)
    assert gguf_tensors.is_read_here(gguf.read_header(path))


def test_copies_of_earlier_versions_are_found(path, home, tmp_path):
    load(path)
    assert gguf.copies() == {}
    save_folder(home / "tiny-0123456789abcdef")
    (home / "tiny-packed").mkdir()
    (home / "tiny-packed" / "packed.safetensors").write_bytes(bytes(1000))
    found = gguf.copies()
    assert [entry.name for entry in found] == ["tiny-0123456789abcdef", "tiny-packed"]
    assert found[home / "tiny-packed"] == 1000


def test_a_folder_for_other_programs_is_there_while_it_is_used(path):
    with gguf.unpacked(path) as folder:
        assert torch.equal(load(folder).model(IDS).logits, tiny_model()(IDS).logits)
    assert not folder.exists()


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
