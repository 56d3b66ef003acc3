"""One tiny configuration per model family that everlong names, with every kind of layer the family has.

A family has `fields` (of its transformers config), `deep` (what a model of several layers adds) and `kinds`: for
each kind of layer what a model adds in which only that kind attends. Sizes are as small as they can be without
hiding a difference: query heads share kv heads, key and value dims differ where they may, a window is longer than
native sliding layers, and the trained length of 64 makes several frames of a stream of 200 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from everlong.errors import AttachError, LearnedPositionsError, RotationError, SelfCheckError, UnsupportedLayerError

TRAINED = 64
VOCAB = 101
SLIDING = 8

FULL, SLIDE, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": TRAINED,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
GLM_MOE = MOE | {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
MLA = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 4}
GEMMA = {"head_dim": 12, "sliding_window": SLIDING}
SHARED = [SLIDE, FULL, SLIDE, FULL]
SCALED = {"rope_theta": 10000.0, "factor": 4.0}
ORIGINAL = {"original_max_position_embeddings": TRAINED}
VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 2}

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A row of the table: how to make its tiny models, and which error refuses it, if one does."""

    name: str
    model: str
    fields: Fields = field(default_factory=dict)
    deep: Fields = field(default_factory=dict)
    kinds: Mapping[str, Fields] = field(default_factory=lambda: {"full": {}})
    attends: Mapping[str, int] = field(default_factory=dict)
    """Kinds of layer that cannot stand alone: which layer keeps its attention (the others' output is zero)."""
    layers: str = "num_hidden_layers"
    common: Fields = field(default_factory=lambda: COMMON)
    norms: float = 0.2
    """How far normalisation weights stray from where transformers puts them."""
    banded: bool = True
    """Whether plain transformers with a band mask equals a window: scores by distance alone, any mask accepted."""
    refused: type[AttachError] | None = None
    because: str = ""
    """What the refusal must say."""

    def __str__(self) -> str:
        return self.name

    def options(self, kind: str | None) -> dict[str, Any]:
        """The config's fields: of the model in which `kind` attends, or of the deep model."""
        depth = {self.layers: 1 if kind else 3}
        return dict(self.common) | depth | dict(self.fields) | dict(self.kinds[kind] if kind else self.deep)


def _types(*kinds: str) -> Fields:
    return {"num_hidden_layers": len(kinds), "layer_types": list(kinds)}


def _layered(full: Fields | None = None) -> dict[str, Any]:
    """Kinds and depth of a family that mixes full and sliding layers by `layer_types`."""
    kinds = {"full": _types(FULL) | dict(full or {}), "sliding": _types(SLIDE)}
    return {"kinds": kinds, "deep": _types(SLIDE, FULL, SLIDE, FULL)}


def _windowed() -> dict[str, Any]:
    """Kinds of a family whose layers are all sliding, or all full."""
    kinds = {"full": {"sliding_window": None}, "sliding": {}}
    return {"fields": {"sliding_window": SLIDING}, "kinds": kinds, "deep": {"sliding_window": 14}}


def _fields(made: dict[str, Any], **more: Any) -> dict[str, Any]:
    return made | {"fields": made.get("fields", {}) | more}


def _llama(name: str, **rope: Any) -> Family:
    """A Llama whose rotary frequencies are scaled."""
    length = TRAINED if rope["rope_type"] == "dynamic" else 4 * TRAINED
    return Family(name, "LlamaForCausalLM", {"rope_parameters": SCALED | rope, "max_position_embeddings": length})


def _gemma_shared(name: str, model: str, **fields: Any) -> Family:
    """A gemma whose last two layers read the keys and values of the first two."""
    shared = _types(*SHARED) | {"num_kv_shared_layers": 2}
    kinds = dict.fromkeys(("sliding", "full", "shared sliding", "shared full"), shared)
    attends = {kind: i for i, kind in enumerate(kinds)}
    fields = GEMMA | {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8} | fields
    return Family(name, model, fields, shared, kinds, attends)


LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": TRAINED,
    },
    "original_max_position_embeddings": TRAINED,
    "max_position_embeddings": 4 * TRAINED,
}
YARN = {"rope_type": "yarn", "truncate": False, "rope_theta": 150000.0, "factor": 4.0} | ORIGINAL
PROPORTIONAL = {
    SLIDE: {"rope_type": "default", "rope_theta": 10000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1000000.0},
}
SCALE_LLAMA4 = {"attention_chunk_size": 24, "floor_scale": 4, "attn_scale": 0.5, "head_dim": 8}
LLAMA4 = {"intermediate_size_mlp": 40, "num_local_experts": 4, "interleave_moe_layer_step": 2} | SCALE_LLAMA4
LLAMA_4_SCALING = YARN | {"llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 8, "factor": 8.0}
MOE_JET = {"kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
GRANITE_HYBRID = MAMBA | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24}
INKLING = MOE | {"head_dim": 8, "d_rel": 4, "rel_extent": 16, "n_routed_experts": 4, "log_scaling_n_floor": 16}
QWEN2_VL = {
    "text_config": COMMON | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
    "vision_config": VISION,
    "vision_start_token_id": VOCAB - 1,
    "image_token_id": VOCAB - 2,
    "video_token_id": VOCAB - 3,
}
FALCON = COMMON | {"num_kv_heads": 2}
FALCON_ALIBI = {"alibi": True, "hidden_size": 64, "num_attention_heads": 16, "multi_query": False}
MPT = {"vocab_size": VOCAB, "d_model": 48, "n_heads": 6, "max_seq_len": TRAINED}
BLOOM = {"vocab_size": VOCAB, "hidden_size": 48, "n_head": 6}
GPTJ = {"vocab_size": VOCAB, "n_embd": 32, "n_head": 4, "n_positions": TRAINED, "rotary_dim": 4}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_head": 4, "n_positions": TRAINED}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}

RECURRENT = (
    (
        "minimax",
        "MiniMaxForCausalLM",
        {"num_local_experts": 4, "head_dim": 8, "block_size": 16},
        AttachError,
        "MiniMax uses cache of its own",
    ),
    ("rwkv", "RwkvForCausalLM", {"context_length": TRAINED}, UnsupportedLayerError, "no layers of attention"),
    ("inkling", "InklingForCausalLM", INKLING, UnsupportedLayerError, "position_bias besides queries"),
)


def _qwen2_vl(layers: int) -> Fields:
    return {"text_config": QWEN2_VL["text_config"] | {"num_hidden_layers": layers}}


def _own(name: str, model: str, shape: Fields, layers: str, **more: Any) -> Family:
    """A family whose config has names of its own for everything."""
    return Family(name, model, layers=layers, common=dict(shape) | ENDS, **more)


FAMILIES = (
    Family("llama", "LlamaForCausalLM"),
    _llama("llama linear", rope_type="linear"),
    _llama("llama dynamic", rope_type="dynamic"),
    _llama("llama yarn", rope_type="yarn", **ORIGINAL),
    _llama("llama llama3", rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL),
    Family("mistral", "MistralForCausalLM", **_fields(_windowed(), head_dim=12)),
    Family("mixtral", "MixtralForCausalLM", **_fields(_windowed(), num_local_experts=4)),
    Family("qwen2", "Qwen2ForCausalLM", **_fields(_layered(), use_sliding_window=True, sliding_window=SLIDING)),
    Family(
        "qwen3", "Qwen3ForCausalLM", **_fields(_layered(), use_sliding_window=True, sliding_window=SLIDING, head_dim=12)
    ),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", MOE | {"num_experts": 4, "decoder_sparse_step": 2, "head_dim": 12}),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        **_fields(_layered(), **GEMMA, query_pre_attn_scalar=9, attn_logit_softcapping=2.0),
    ),
    Family("gemma3", "Gemma3ForCausalLM", **_fields(_layered(), **GEMMA, query_pre_attn_scalar=9)),
    _gemma_shared("gemma3n", "Gemma3nForCausalLM", altup_num_inputs=2, laurel_rank=4),
    _gemma_shared("gemma4", "Gemma4ForCausalLM", global_head_dim=16, rope_parameters=PROPORTIONAL),
    Family("phi", "PhiForCausalLM", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
    Family("phi3", "Phi3ForCausalLM", **_windowed()),
    Family("phi3 longrope", "Phi3ForCausalLM", LONGROPE),
    Family("olmo2", "Olmo2ForCausalLM"),
    Family("olmoe", "OlmoeForCausalLM", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family("stablelm", "StableLmForCausalLM", {"partial_rotary_factor": 0.5, "qk_layernorm": True}),
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    ),
    Family(
        "smollm3",
        "SmolLM3ForCausalLM",
        kinds={"rotated": {"no_rope_layers": [1]}, "no position": {"no_rope_layers": [0]}},
        deep={"no_rope_layers": [1, 0, 1]},
    ),
    Family(
        "gpt_oss",
        "GptOssForCausalLM",
        **_fields(
            _layered(),
            **GEMMA,
            num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters=YARN,
            max_position_embeddings=4 * TRAINED,
        ),
    ),
    Family("glm4", "Glm4ForCausalLM", {"head_dim": 8, "partial_rotary_factor": 0.5}),
    Family(
        "glm4_moe", "Glm4MoeForCausalLM", GLM_MOE | {"head_dim": 8, "use_qk_norm": True, "first_k_dense_replace": 1}
    ),
    Family("cohere", "CohereForCausalLM", {"use_qk_norm": True, "logit_scale": 0.5}),
    Family("cohere2", "Cohere2ForCausalLM", **_fields(_layered(), sliding_window=SLIDING, logit_scale=0.5)),
    Family(
        "granite",
        "GraniteForCausalLM",
        {"attention_multiplier": 0.3, "residual_multiplier": 0.7, "logits_scaling": 1.5},
    ),
    Family("starcoder2", "Starcoder2ForCausalLM", **_windowed()),
    Family("deepseek_v2", "DeepseekV2ForCausalLM", MLA | GLM_MOE | {"q_lora_rank": None, "first_k_dense_replace": 1}),
    Family("deepseek_v3", "DeepseekV3ForCausalLM", MLA | GLM_MOE | {"q_lora_rank": 12, "first_k_dense_replace": 1}),
    Family(
        "llama4",
        "Llama4ForCausalLM",
        LLAMA4,
        {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
        {"chunked": {"no_rope_layers": [1]}, "no position": {"no_rope_layers": [0]}},
        banded=False,
    ),
    Family(
        "ministral3",
        "Ministral3ForCausalLM",
        {"head_dim": 12, "sliding_window": None, "rope_parameters": dict(LLAMA_4_SCALING)},
        banded=False,
    ),
    Family(
        "mistral4",
        "Mistral4ForCausalLM",
        MLA | GLM_MOE | {"q_lora_rank": 12, "first_k_dense_replace": 1, "rope_parameters": dict(LLAMA_4_SCALING)},
        banded=False,
    ),
    Family(
        "afmoe",
        "AfmoeForCausalLM",
        **_fields(_layered(), **MOE, num_experts=4, num_dense_layers=1, head_dim=12, sliding_window=SLIDING),
    ),
    Family("jetmoe", "JetMoeForCausalLM", MOE_JET, banded=False),
    Family("modernbert_decoder", "ModernBertDecoderForCausalLM", **_fields(_layered(), sliding_window=SLIDING)),
    Family(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        GRANITE_HYBRID,
        kinds={"no position": {"layer_types": ["attention"]}},
        deep={"layer_types": ["attention"] * 3},
    ),
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", QWEN2_VL, _qwen2_vl(3), {"full": _qwen2_vl(1)}, common={}),
    Family(
        "minimax_m2",
        "MiniMaxM2ForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 12, "rotary_dim": 6},
    ),
    Family("ernie4_5", "Ernie4_5ForCausalLM", {"head_dim": 12}),
    Family("exaone4", "Exaone4ForCausalLM", **_fields(_layered(), sliding_window=SLIDING)),
    Family("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", {"head_dim": 8}, norms=0.0),
    Family(
        "hunyuan_v1_dense with trained norms",
        "HunYuanDenseV1ForCausalLM",
        {"head_dim": 8},
        refused=RotationError,
        because="norm after the rotation",
    ),
    Family("nemotron", "NemotronForCausalLM", {"head_dim": 12, "partial_rotary_factor": 0.5}),
    Family("bitnet", "BitNetForCausalLM"),
    Family("apertus", "ApertusForCausalLM"),
    Family("seed_oss", "SeedOssForCausalLM", {"head_dim": 12, "attention_dropout": 0.0, "residual_dropout": 0.0}),
    Family("falcon", "FalconForCausalLM", {"multi_query": True}, common=FALCON),
    Family("falcon new decoder", "FalconForCausalLM", {"new_decoder_architecture": True}, common=FALCON),
    Family(
        "falcon alibi",
        "FalconForCausalLM",
        FALCON_ALIBI,
        refused=UnsupportedLayerError,
        because="absolute positions",
    ),
    _own("mpt", "MptForCausalLM", MPT, "n_layers"),
    _own("bloom", "BloomForCausalLM", BLOOM, "n_layer", banded=False),
    _own("gptj", "GPTJForCausalLM", GPTJ, "n_layer"),
    *(
        Family(name, model, fields, refused=refused, because=because)
        for name, model, fields, refused, because in RECURRENT
    ),
    Family(
        "beam",
        "BeamForCausalLM",
        GLM_MOE | {"num_experts": 4, "head_dim": 8, "sliding_window": SLIDING, "layer_types": [SLIDE, FULL]},
        {"num_hidden_layers": 2},
        refused=RotationError,
        because="layer 1: its queries grow with the position",
    ),
    Family("doge", "DogeForCausalLM", refused=UnsupportedLayerError, because="attention_mask besides queries"),
    Family("hrm_text", "HrmTextForCausalLM", refused=SelfCheckError, because="once in each of"),
    _own("gpt2", "GPT2LMHeadModel", GPT2, "n_layer", refused=LearnedPositionsError, because="learned"),
    Family(
        "opt",
        "OPTForCausalLM",
        {"ffn_dim": 48, "word_embed_proj_dim": 32},
        refused=LearnedPositionsError,
        because="learned",
    ),
)
