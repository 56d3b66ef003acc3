"""A tiny random model of any causal-LM or image-text class of the installed transformers: its default config, shrunk.

What a class needs besides stands in `OWN`; what no tiny config can be made of is found by trying.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from tests.families.configs import VOCAB
from tests.families.models import randomise

DEPTH = 4
HEADS = 4

Fields = dict[str, Any]

SIZES = """
4 num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
4 num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads
4 swa_num_attention_heads linear_num_value_heads linear_num_heads mamba_n_heads mamba_num_heads num_experts
4 num_local_experts n_routed_experts moe_num_experts d_rel n_mamba_heads index_n_heads indexer_num_heads
32 hidden_size d_model n_embd embedding_size word_embed_proj_dim attention_hidden_size lru_width
48 intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size n_inner dim_ff
48 shared_intermediate_size
24 moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size
8 head_dim d_head swa_head_dim global_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
8 mamba_d_state state_size ssm_state_size mamba_state_dim sliding_window sliding_window_size qk_nope_head_dim
8 v_head_dim kv_channels index_head_dim attention_head_dim hidden_size_per_layer_input mamba_dt_rank
4 qk_rope_head_dim rotary_dim index_topk time_step_rank laurel_rank
16 kv_lora_rank attention_chunk_size rel_extent mamba_d_head mamba_head_dim mamba_headdim chunk_size
16 mamba_chunk_size block_size o_lora_rank attention_window_size
12 q_lora_rank
2 num_kv_shared_layers num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads
2 num_experts_per_tok moe_topk num_experts_per_token top_k_experts
1 n_group topk_group n_groups mamba_n_groups mamba_ngroups num_expert_group n_shared_experts
1 num_shared_experts moe_num_shared_experts num_nextn_predict_layers first_k_dense_replace num_dense_layers
64 max_position_embeddings n_positions max_seq_len model_max_length original_max_position_embeddings
64 context_length max_sequence_length seq_length max_target_positions
101 vocab_size vocab_size_per_layer_input
"""
"""Small sizes, each with the fields that take it."""

SMALL = {name: int(size) for size, *names in map(str.split, SIZES.split("\n")[1:-1]) for name in names}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}

ATTENDS_SECOND = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
ZAMBA = {"layers_block_type": ["linear_attention", "hybrid"] * 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CONVOLVED = {"layer_types": ["conv", "full_attention"] * 2}
SHARING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
MLA = {"qk_rope_head_dim": 4, "head_dim": 4}
EXPERTS = {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1}
AXES = {"text_config": {"rope_parameters": ROPE | {"mrope_section": [1, 1, 2]}}}
"""Pairs of dims that turn by time, height and width."""
HALF_AXES = {"text_config": {"rope_parameters": ROPE | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}}
OWN: dict[str, Fields] = {
    "AXK1ForCausalLM": MLA,
    "BambaForCausalLM": {"attn_layer_indices": [1, 3], "mamba_d_head": 16},
    "BltForCausalLM": {"encoder_hash_byte_group_size": [3], "encoder_hash_byte_group_vocab": 50},
    "CTRLLMHeadModel": {"dff": 48},
    "CohereCompassForCausalLM": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "DeepseekV2ForCausalLM": EXPERTS | {"n_group": 1, "topk_group": 1} | MLA,
    "DeepseekV3ForCausalLM": MLA,
    "Dots1ForCausalLM": EXPERTS,
    "Dots3NoteForCausalLM": {"shared_experts_intermediate_size": 24},
    "Ernie4_5_MoeForCausalLM": {"moe_k": 2},
    "FalconH1ForCausalLM": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "Glm46VForConditionalGeneration": AXES,
    "Glm4vForConditionalGeneration": AXES,
    "Glm4vMoeForConditionalGeneration": HALF_AXES,
    "GlmOcrForConditionalGeneration": AXES,
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 2]]},
    "Gemma3nForCausalLM": SHARING | {"intermediate_size": 48},
    "Gemma4AssistantForCausalLM": {"text_config": {"hidden_size_per_layer_input": 0}},
    "Gemma4ForCausalLM": SHARING,
    "Gemma4ForConditionalGeneration": {"text_config": SHARING},
    "Gemma4UnifiedForCausalLM": SHARING,
    "Gemma4UnifiedForConditionalGeneration": {"text_config": SHARING},
    "GraniteMoeHybridForCausalLM": {"layer_types": ATTENDS_SECOND, "mamba_d_head": 16},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 8},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "Lfm2ForCausalLM": CONVOLVED,
    "Lfm2MoeForCausalLM": CONVOLVED,
    "LongcatFlashForCausalLM": MLA | {"expert_ffn_hidden_size": 24, "zero_expert_num": 2},
    "Mamba2ForCausalLM": {"head_dim": 16, "num_heads": 4},
    "MinistralForCausalLM": {"head_dim": 8, "sliding_window": 104},
    "MistralForCausalLM": {"sliding_window": 104},
    "MusicgenForCausalLM": {"num_codebooks": 1},
    "MusicgenMelodyForCausalLM": {"num_codebooks": 1},
    "NemotronHForCausalLM": {"time_step_min": 1e-8},
    "NemotronForCausalLM": {"num_key_value_heads": 2},
    "XLMWithLMHeadModel": {"emb_dim": 32},
    "XLNetLMHeadModel": {"d_inner": 48},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "YoutuForCausalLM": MLA,
    "Zamba2ForCausalLM": {
        "time_step_min": 1e-8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
    }
    | ZAMBA,
    "ZambaForCausalLM": ZAMBA | {"attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2},
    "PaddleOCRVLForConditionalGeneration": AXES,
    "Qwen2VLForConditionalGeneration": AXES,
    "Qwen2_5OmniThinkerForConditionalGeneration": AXES,
    "Qwen2_5_VLForConditionalGeneration": AXES,
    "Qwen3OmniMoeThinkerForConditionalGeneration": AXES,
    "Qwen3VLForConditionalGeneration": AXES,
    "Qwen3VLMoeForConditionalGeneration": AXES,
    "Qwen3_5ForConditionalGeneration": AXES,
    "Qwen3_5MoeForConditionalGeneration": AXES,
    "Cosmos3EdgeForConditionalGeneration": AXES,
    "Qwen4ExpForCausalLM": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "ReformerModelWithLMHead": {"is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]},
    "RoCBertForCausalLM": {"pronunciation_embed_dim": 8, "shape_embed_dim": 8, "shape_vocab_size": 50},
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
}
"""What a class needs that its default config, shrunk, is not."""


def causal_classes() -> list[str]:
    """The names of all causal-LM classes that transformers has, each once."""
    return sorted(_classes(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def image_classes() -> list[str]:
    """The names of all classes that take images and text, and are no causal-LM classes."""
    return sorted(_classes(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - _classes(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def _classes(mapping: Any) -> set[str]:
    return {name for names in mapping.values() for name in _names(names)}


def _names(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of the class, in float32, in evaluation mode."""
    model_class = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(tiny_config(name)).eval()
        randomise(model, 0.2)
    return model


def tiny_config(name: str) -> PreTrainedConfig:
    """The default config of a class, shrunk."""
    kind = getattr(transformers, name).config_class
    own = deepcopy(OWN.get(name, {}))  # configs write into the dicts that they are given
    return kind(**shrunk(kind(**{k: own[k] for k in own.get("default", ())}), own))


def shrunk(config: PreTrainedConfig, own: Fields) -> Fields:
    """Fields of a config with everything small; `own` wins."""
    held = vars(config)
    found: Fields = {}
    chosen = _layers(held)
    count = len(held.get("layer_types") or held.get("layers_block_type") or ())
    for field, value in held.items():
        if isinstance(value, PreTrainedConfig):
            found[field] = shrunk(value, own.get(field, {}))
        elif field in TOKENS:
            found[field] = TOKENS[field]
        elif field.endswith(("token_id", "token_index")) and isinstance(value, int):
            found[field] = VOCAB - 1 - len([f for f in found if f.endswith(("token_id", "token_index"))])
        elif isinstance(value, list) and chosen and len(value) == count:
            found[field] = [value[i] for i in chosen]
        elif field in SMALL and isinstance(value, int) and not isinstance(value, bool):
            found[field] = min(SMALL[field], value) if field.startswith(("num_kv_shared", "n_group")) else SMALL[field]
    if "kv_lora_rank" in found and "num_key_value_heads" in found:
        found["num_key_value_heads"] = HEADS
    if chosen and "num_hidden_layers" in found:
        found["num_hidden_layers"] = len(chosen)
    return (
        found
        | {k: v for k, v in own.items() if k != "default" and not isinstance(v, dict)}
        | {k: v for k, v in own.items() if isinstance(v, dict) and k not in found}
    )


def _layers(held: Fields) -> list[int]:
    """Which layers of a config that lists its kinds of layers are kept: each kind, and the first ones."""
    kinds = held.get("layer_types") or held.get("layers_block_type")
    if not isinstance(kinds, list):
        return []
    first = sorted({kinds.index(kind) for kind in kinds})
    rest = [i for i in range(len(kinds)) if i not in first]
    return sorted([*first, *rest[: max(0, DEPTH - len(first))]])
