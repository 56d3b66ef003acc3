"""A tiny random BERT as a folder, with a tokenizer of letters."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation]
PIECES = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
SHAPE = {
    "vocab_size": len(PIECES),
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    # Weights of the usual size would make all texts alike.
    "initializer_range": 0.5,
}


def letter_tokenizer(pad: str | None = "[PAD]") -> transformers.PreTrainedTokenizerFast:
    """A lower-case tokenizer of single letters that puts [CLS] and [SEP] around a text."""
    core = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def save_encoder(
    folder: Path, seed: int = 0, pooling: str | None = None, most: int | None = None, pad: str | None = "[PAD]"
) -> Path:
    """The folder with a tiny encoder; `pooling` and `most` tokens are said as sentence-transformers says them."""
    tiny_bert(seed).save_pretrained(folder)
    letter_tokenizer(pad).save_pretrained(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes | {"word_embedding_dimension": 24}))
    if most is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": most}))
    return folder


def tiny_bert(seed: int = 0, **fields: Any) -> transformers.BertModel:
    """A random BERT over the tokens of `letter_tokenizer`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.BertModel(transformers.BertConfig(**(SHAPE | fields))).eval()
