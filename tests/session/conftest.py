"""Small tokenizers built here and a tiny model that goes with them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import everlong
from everlong.models.load import Loaded

TEXT = (
    "It was the best of times, it was the worst of times; the tide rose and the tide fell. "
    "Don't ask why 1234567 gulls cried over the harbour -- nobody knew, nobody cared.\n\n"
    "  Señor Ōe said: “naïve façade”, 日本語のテキスト, 🙂🙃 and went home.\n"
)
SPECIAL = ["<|end|>", "<|turn|>", "<s>"]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def byte_level(begin: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens; with `begin` it puts <s> before a text by itself."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False),
    )
    if begin:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", bos_token="<s>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def prefix_space(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text: "llama" by its normalizer, "metaspace" by its splitting."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if kind == "llama":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words = [part + " " for part in TEXT.split()]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    core.train_from_iterator([" ".join(words)] if kind == "metaspace" else words, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    plain = json.loads(core.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<0x")]
    core = Tokenizer.from_str(json.dumps(plain))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(place.name for place in folder.iterdir())


@contextlib.contextmanager
def interrupt(at: int | None = None) -> Iterator[list[int]]:
    """Raises KeyboardInterrupt at the `at`-th line that everlong runs inside; the list holds the count of lines."""
    count, inside = [0], str(Path(everlong.__file__).parent)

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(inside):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of 400 tokens with a chat template."""
    return byte_level()


@pytest.fixture
def tiny(tiny_llama: Any, tokenizer: PreTrainedTokenizerFast) -> Loaded:
    """A tiny random Llama with the byte-level tokenizer."""
    return Loaded(tiny_llama(vocab_size=len(tokenizer)), tokenizer, "tiny")
