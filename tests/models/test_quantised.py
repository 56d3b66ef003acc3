"""Checkpoints that others quantised, as transformers loads them on a CPU: FP8, torchao, compressed-tensors.

torchao and compressed-tensors warn when they are imported: with them, run this file with `-W ignore`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from everlong.errors import ConfigError, LoadError
from everlong.hooks.adapter import load
from everlong.models.fingerprint import fingerprint
from everlong.models.load import Loaded
from tests.models.attached import attaches, keeps
from tests.models.tiny import byte_tokenizer, save_folder, tiny_model

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 256}


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path / "plain", **SHAPE)


def with_config(folder: Path, quantisation: dict[str, Any]) -> Path:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": quantisation}
    file.write_text(json.dumps(config))
    return folder


def save_fp8(folder: Path, seed: int = 0) -> Path:
    """Linear layers in blocks of 128 x 128 with a scale each, as DeepSeek and Qwen publish them."""
    save_folder(folder, seed, **SHAPE)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name]
        rows = min(128, len(weight))
        blocks = weight.reshape(-1, rows, weight.shape[1] // 128, 128)
        scale = blocks.abs().amax((1, 3)) / 448
        tensors[name] = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn).reshape(weight.shape)
        tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    return with_config(folder, blocks)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_is_unpacked_into_the_type_asked_for(tmp_path, dtype):
    loaded = load(save_fp8(tmp_path / "fp8"), dtype=dtype)
    whole = tiny_model(**SHAPE)
    assert {weight.dtype for weight in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.model.model.rotary_emb.inv_freq.dtype == torch.float32
    for name, weight in loaded.model.named_parameters():
        want = whole.get_parameter(name)
        assert (weight.float() - want).abs().max() <= 2**-4 * want.abs().max()
    attaches(loaded, 1e-5 if dtype == "float32" else 0.03)


def test_sessions_over_fp8_go_on(tmp_path):
    path = save_fp8(tmp_path / "fp8")
    keeps(load(path), load(path), load(save_fp8(tmp_path / "other", seed=1)), tmp_path)


def test_fp8_may_be_packed_since_it_was_unpacked(tmp_path):
    attaches(load(save_fp8(tmp_path / "fp8"), weights="int8"))


def torchao_folder(folder: Path, kind: str, seed: int = 0) -> Path:
    pytest.importorskip("torchao", reason="needs torchao, which is not among the development packages")
    from transformers import TorchAoConfig

    config = getattr(importlib.import_module("torchao.quantization"), kind)()
    model = tiny_model(seed, **SHAPE)
    model.save_pretrained(folder)
    made: Any = type(model).from_pretrained(folder, quantization_config=TorchAoConfig(config), dtype=torch.float32)
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


TORCHAO = ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig")


@pytest.mark.parametrize("kind", TORCHAO)
def test_torchao(tmp_path, kind):
    path = torchao_folder(tmp_path / "one", kind)
    loaded = load(path)
    weight = loaded.model.model.layers[0].mlp.up_proj.weight
    assert type(weight).__module__.startswith("torchao")
    # activations that are rounded to 8 bits differ by a step where the last bits of what was before differ
    attaches(loaded, 1e-5 if kind == "Int8WeightOnlyConfig" else 0.02)
    keeps(loaded, load(path), load(torchao_folder(tmp_path / "two", kind, seed=1)), tmp_path)
    with pytest.raises(ConfigError, match=r"weights=int4: .* is quantised already \(torchao\); leave weights out"):
        load(path, weights="int4")


def compressed_folder(folder: Path, scheme: str, seed: int = 0) -> Path:
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors, not among the development packages")
    quantization: Any = importlib.import_module("compressed_tensors.quantization")
    compressors: Any = importlib.import_module("compressed_tensors.compressors")
    model = tiny_model(seed, **SHAPE)
    config = quantization.QuantizationConfig(config_groups={scheme: ["Linear"]}, ignore=["lm_head"])
    quantization.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.unflatten(1, (module.weight_scale.shape[1], -1))
            module.weight_scale.data = groups.abs().amax(-1) / (127 if scheme == "W8A16" else 7)
    compressor = compressors.ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # the library's
@pytest.mark.parametrize("scheme", ["W8A16", "W4A16"])
def test_compressed_tensors(tmp_path, scheme):
    path = compressed_folder(tmp_path / "one", scheme)
    loaded = load(path)
    attaches(loaded)
    keeps(loaded, load(path), load(compressed_folder(tmp_path / "two", scheme, seed=1)), tmp_path)
    with pytest.raises(ConfigError, match=r"weights=int8: .* is quantised already \(compressed-tensors\)"):
        load(path, weights="int8")


@pytest.mark.parametrize(
    ("module", "config", "named"),
    [
        ("optimum", {"quant_method": "gptq", "bits": 4, "group_size": 32}, "optimum"),
        ("gptqmodel", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, "gptqmodel"),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        (
            "compressed_tensors",
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "compressed-tensors",
        ),
    ],
)
def test_a_library_that_is_missing_is_named(folder, module, config, named):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(LoadError, match=rf"ImportError: .*{named}.*; install what is missing") as raised:
        load(with_config(folder, config))
    assert "\n" not in str(raised.value)


def test_weights_that_a_library_keeps_in_buffers_are_told_apart(folder):
    """GPTQ keeps its weights in buffers."""
    loaded: Loaded = load(folder)
    plain = fingerprint(loaded.model, None)
    layer = loaded.model.model.layers[0].mlp.up_proj
    layer.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))
    assert fingerprint(loaded.model, None) == plain
    loaded.model.config.quantization_config = {"quant_method": "gptq"}
    before = fingerprint(loaded.model, None)
    layer.qweight += 1
    assert fingerprint(loaded.model, None)["weights"] != before["weights"]
