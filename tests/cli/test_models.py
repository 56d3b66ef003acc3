"""`everlong models`: what is on this machine, told from its files alone."""

from __future__ import annotations

import json
import shutil
import struct

import gguf
import pytest

from everlong.hooks.adapter import load
from everlong.models import installed as found
from everlong.models import retrieval_heads
from everlong.models.gguf_header import read_header
from tests.models.tiny import save_folder, save_gguf, tiny_model


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no default model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(found.gguf, "package_gguf", lambda package: None)
    return tmp_path / "hub"


SHIPPED = {"everlong/delta-names", "everlong/infini-passkey"}
PARAMETERS = sum(p.numel() for p in tiny_model().parameters())


def by_name(everlong, *folders):
    return {model["name"]: model for model in everlong("models", *folders, "--json").json}


def test_folders_and_files_of_the_usual_places(everlong, home, hub, tmp_path):
    snapshot = hub / "models--some--model" / "snapshots" / "abc"
    save_folder(snapshot, tie_word_embeddings=False)
    save_gguf(home / "one.gguf")
    (home / "models").mkdir()
    save_gguf(home / "models" / "two.gguf")
    save_folder(tmp_path / "extra" / "three")
    models = by_name(everlong, tmp_path / "extra")
    names = {"some/model", str(home / "one.gguf"), str(home / "models" / "two.gguf"), str(tmp_path / "extra" / "three")}
    assert names == models.keys() - SHIPPED
    for name in names:
        assert (models[name]["parameters"], models[name]["context_tokens"]) == (PARAMETERS, 128)
        assert (models[name]["calibrated"], models[name]["memory"]) == (False, None)
    assert models["some/model"]["bytes"] == (snapshot / "model.safetensors").stat().st_size
    assert by_name(everlong, tmp_path / "extra" / "three").keys() >= {str(tmp_path / "extra" / "three")}


def test_a_model_that_is_listed_can_be_loaded_by_its_name(everlong, home):
    save_folder(home / "a model")
    for name, facts in by_name(everlong).items():
        model = load(name).model
        assert sum(p.numel() for p in model.parameters()) == facts["parameters"]


def test_the_table_says_what_the_default_model_is_not_good_for(everlong, home, tmp_path, monkeypatch):
    save_gguf(tmp_path / "default.gguf")
    monkeypatch.setattr(found.gguf, "package_gguf", lambda package: tmp_path / "default.gguf")
    save_folder(home / "other")
    done = everlong("models")
    header, default, note, *_ = done.out.splitlines()
    assert header.split() == ["MODEL", "SIZE", "PARAMETERS", "CONTEXT", "HEADS"]
    assert default.split()[0] == "smollm2"
    assert default.endswith("known")
    assert "does not answer questions well" in note
    assert f"Next: everlong calibrate -m {home / 'other'}" in done.err


def test_calibrated_ones_are_told(everlong, home):
    save_folder(home / "mine")
    heads = retrieval_heads.RetrievalHeads(((0, 1),), (0.5,), model=str(home / "mine"), key="k")
    retrieval_heads.save(heads, home / "heads" / "k.json")
    (home / "heads" / "broken.json").write_text("no")
    assert by_name(everlong)[str(home / "mine")]["calibrated"]


def test_what_is_no_model_that_writes_is_left_out(everlong, home, hub):
    save_folder(home / "whole")
    shutil.copytree(home / "whole", home / "bare")
    (home / "bare" / "model.safetensors").unlink()
    shutil.copytree(home / "whole", home / "reader")
    config = json.loads((home / "reader" / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (home / "reader" / "config.json").write_text(json.dumps(config))
    shutil.copytree(home / "whole", home / "torn")
    (home / "torn" / "config.json").write_text("{")
    (home / "junk.gguf").write_bytes(b"GGUF" + b"\1" * 40)
    (home / "empty.gguf").write_bytes(b"")
    (hub / "models--none--here").mkdir(parents=True)
    assert by_name(everlong).keys() - SHIPPED == {str(home / "whole")}


def test_a_folder_that_is_not_there_is_refused(everlong, tmp_path):
    refused = everlong("models", tmp_path / "none")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "no such folder" in refused.err


def test_the_header_of_a_file_is_as_the_package_reads_it(tmp_path):
    path = save_gguf(tmp_path / "a.gguf")
    header = read_header(path)
    reader = gguf.GGUFReader(path)
    assert header.architecture == reader.fields["general.architecture"].contents() == "llama"
    assert header.context_tokens == reader.fields["llama.context_length"].contents()
    assert header.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    whole = path.read_bytes()
    for size in (0, 3, 24, 100, 2000):
        path.write_bytes(whole[:size])
        with pytest.raises((ValueError, struct.error)):
            read_header(path)


def test_copies_of_earlier_versions_are_removed_and_nothing_else(everlong, home, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "gguf"
    save_folder(cache / "old-0123456789abcdef")
    save_folder(cache / "new-0123456789abcdef")
    (cache / "new-0123456789abcdef" / "model.safetensors").unlink()
    save_gguf(home / "one.gguf")
    assert "everlong models --clean removes them" in everlong("models").err
    (removed,) = json.loads(everlong("models", "--clean", "--json").out)
    assert removed["path"] == str(cache / "old-0123456789abcdef")
    assert removed["bytes"] > 10_000
    assert [entry.name for entry in cache.iterdir()] == ["new-0123456789abcdef"]
    assert "Removed 0 copies" in everlong("models", "--clean").out
    assert "--clean" not in everlong("models").err
    assert (home / "one.gguf").is_file()
