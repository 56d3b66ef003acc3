"""A tiny model as files: a transformers folder with a byte-level tokenizer, and the same as GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["t h", "th e", "Ġ the", "i n", "e r"]
PIECES = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def byte_tokenizer(template: str | None = TEMPLATE) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of bytes, a few pairs and three special tokens, with a chat template."""
    merges = [tuple(merge.split()) for merge in MERGES]
    core = Tokenizer(BPE({piece: i for i, piece in enumerate(PIECES)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL[2], bos_token=SPECIAL[1], chat_template=template
    )


def tiny_model(seed: int = 0, **fields: Any) -> transformers.LlamaForCausalLM:
    """A random Llama over the tokens of `byte_tokenizer`."""
    tokens = {"vocab_size": len(PIECES), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SHAPE | tokens | fields))).eval()


def save_folder(folder: Path, seed: int = 0, template: str | None = TEMPLATE, **fields: Any) -> Path:
    """The folder with the tiny model and its tokenizer."""
    tiny_model(seed, **fields).save_pretrained(folder)
    byte_tokenizer(template).save_pretrained(folder)
    return folder


def save_gguf(
    path: Path,
    seed: int = 0,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    tied: bool = False,
    without: str | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """The tiny model as a GGUF file of the llama architecture; matrices of whole blocks are of this type.

    `tied`: its head is its embedding, `without`: a weight is left out, `extra`: tensors that it has besides.
    """
    model = tiny_model(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(SHAPE["hidden_size"] // SHAPE["num_attention_heads"])
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(PIECES)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(PIECES) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    for name, weight in model.state_dict().items():
        if (tied and "lm_head" in name) or (without and without in name):
            continue
        data = _gguf_layout(name, weight)
        plain = data.ndim < 2 or data.shape[-1] % 32 or kind == gguf.GGMLQuantizationType.F32
        if plain:
            writer.add_tensor(_gguf_name(name), data)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SHAPE["num_hidden_layers"])
    return str(known.get_name(name, try_suffixes=(".weight",)))


def _gguf_layout(name: str, weight: torch.Tensor) -> np.ndarray:
    """The weight as llama.cpp keeps it: rows of queries and keys paired for interleaved rotation."""
    heads = {"q_proj": SHAPE["num_attention_heads"], "k_proj": SHAPE["num_key_value_heads"]}
    for part, count in heads.items():
        if part in name:
            half = weight.shape[0] // count // 2
            weight = weight.view(count, 2, half, -1).transpose(1, 2).reshape(weight.shape)
    return weight.contiguous().numpy()
