"""Models in training mode, under autocast, offloaded, around images, and caches that begin anew."""

from __future__ import annotations

import accelerate
import pytest
import torch
import transformers

import everlong
from everlong.errors import AttachError, CapabilityError
from everlong.models.fingerprint import weights_digest
from everlong.models.load import Loaded
from tests.families.configs import COMMON, FAMILIES, SHARED, VOCAB
from tests.families.models import build, stream, tokens

IDS = tokens(40)
TIGHT = everlong.Sinks(sinks=4, window=12)
METHODS = [
    TIGHT,
    everlong.Dense(),
    everlong.Blocks(sinks=2, window=8, block=4, top_k=2, exec_chunk=4, recall="layer"),
    everlong.Infini(segment=8),
    everlong.Delta(segment=8),
    everlong.TransformerXL(segment=8),
    everlong.InfinityFormer(segment=8),
]
NAMES = [method.name for method in METHODS]


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(vocab_size=101, max_position_embeddings=128, initializer_range=0.3)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("attached", ["inside", "outside"])
def test_autocast_gives_what_is_given_without_it(model, method, attached):
    with everlong.attach(model, method) as handle:
        want = stream(model, handle.new_cache(), IDS, 7)
    with torch.autocast("cpu", torch.bfloat16, enabled=attached == "inside"):
        handle = everlong.attach(model, method)
    with torch.autocast("cpu", torch.bfloat16):
        cache = handle.new_cache()
        got = stream(model, cache, IDS, 7)
        other = cache.fork()
        assert (stream(model, other, IDS[:, :1], 1)).isfinite().all()
    assert (got - want).norm() / want.norm() < 0.05
    assert stream(model, cache, IDS[:, :9], 3).isfinite().all()
    handle.detach()


def test_autocast_of_latent_keys():
    model = build(next(f for f in FAMILIES if f.name == "deepseek_v3"), seed=2)
    with everlong.attach(model, TIGHT) as handle:
        want = stream(model, handle.new_cache(), IDS, 7)
        with torch.autocast("cpu", torch.bfloat16):
            got = stream(model, handle.new_cache(), IDS, 7)
    assert (got - want).norm() / want.norm() < 0.2


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("how", ["reset", "crop"])
def test_other_rows_after_a_fresh_start(model, method, how):
    with everlong.attach(model, method) as handle:
        cache, wide = handle.new_cache(), tokens(40, batch=3)
        mask = torch.ones(1, 3, dtype=torch.long)
        mask[0, :2] = 0
        with torch.no_grad():
            model(IDS[:, :3], attention_mask=mask, past_key_values=cache)
        if how == "crop":
            if not cache.is_croppable:
                pytest.skip("cannot be cropped")
            cache.crop(-3)
        else:
            cache.reset()
        got = stream(model, cache, wide, 7)
        want = stream(model, handle.new_cache(), wide, 7)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        with pytest.raises(CapabilityError, match="holds 3 rows, got 1"):
            model(IDS[:, :3], past_key_values=cache)


def test_a_cache_cropped_into_its_padding(model):
    mask = (torch.arange(20) >= 8).long()[None]
    with everlong.attach(model, everlong.Dense()) as handle, torch.no_grad():
        cache = handle.new_cache()
        model(IDS[:, :20], attention_mask=mask, past_key_values=cache)
        cache.crop(-15)
        got = model(IDS[:, 8:20], attention_mask=torch.cat([mask[:, :5], mask[:, 8:]], 1), past_key_values=cache).logits
        want = model(IDS[:, 8:20], past_key_values=handle.new_cache()).logits
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("grad", [True, False])
def test_dropout_in_training_mode(tiny_llama, grad):
    model = tiny_llama(vocab_size=101, attention_dropout=0.2).train()
    model.model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    with everlong.attach(model, TIGHT) as handle, torch.set_grad_enabled(grad):
        assert [m.training for m in model.modules()] == modes
        cache = handle.new_cache()
        with pytest.raises(CapabilityError, match=r"attention_dropout=0.2; call model.eval\(\)"):
            model(IDS, past_key_values=cache)
        model.eval()
        with torch.no_grad():
            model(IDS, past_key_values=cache)


@pytest.mark.parametrize("name", ["BloomForCausalLM", "GPTJForCausalLM", "JetMoeForCausalLM"])
def test_other_dropout_in_training_mode(name):
    kind = getattr(transformers, name)
    fields = {"hidden_dropout": 0.3, "resid_pdrop": 0.3, "attention_dropout": 0.3, "rotary_dim": 4}
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "n_head": 4, "n_layer": 2, "num_hidden_layers": 2}
    model = kind(kind.config_class(**shape, **fields, num_key_value_heads=2, kv_channels=8)).train()
    with everlong.attach(model, TIGHT) as handle, torch.no_grad():
        with pytest.raises(CapabilityError, match=r"drop.*call model.eval\(\)"):
            model(IDS, past_key_values=handle.new_cache())
        model.eval()(IDS, past_key_values=handle.new_cache())


def test_training_mode_without_dropout_is_stock(model):
    want = stream(model, None, IDS, 40)
    model.train()
    with everlong.attach(model, everlong.Dense()) as handle:
        torch.testing.assert_close(stream(model, handle.new_cache(), IDS, 7), want, atol=1e-4, rtol=0)
        assert model.training


OFFLOAD = {
    "to the disk": lambda model, folder: accelerate.disk_offload(model, folder),
    "to memory": lambda model, folder: accelerate.cpu_offload(model, torch.device("cpu")),
    "one layer": lambda model, folder: accelerate.dispatch_model(model, MAP, main_device="cpu", offload_dir=folder),
}
MAP = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"}
MAP |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}


@pytest.mark.parametrize("how", OFFLOAD)
def test_offloaded_weights(model, tmp_path, how):
    want = {}
    for method in (TIGHT, everlong.Infini(segment=8)):
        with everlong.attach(model, method) as handle:
            want[method] = stream(model, handle.new_cache(), IDS, 7)
    digest = weights_digest(model)
    OFFLOAD[how](model, tmp_path / "weights")
    assert any(p.is_meta for p in model.parameters())
    assert weights_digest(model) == digest
    for method, expected in want.items():
        with everlong.attach(model, method) as handle:
            torch.testing.assert_close(stream(model, handle.new_cache(), IDS, 7), expected, atol=1e-5, rtol=0)
    with everlong.Session(Loaded(model, None, "tiny"), TIGHT) as session:
        session.feed(IDS[0])
        torch.testing.assert_close(session.prediction, want[TIGHT][0, -1], atol=1e-5, rtol=0)


def test_weights_that_were_never_loaded_are_refused(model):
    with pytest.raises(AttachError, match="meta device; load them"):
        everlong.attach(model.to("meta"), TIGHT)


def test_offloaded_weights_of_a_model_with_biases_by_distance(tmp_path):
    model = build(next(f for f in FAMILIES if f.name == "bloom"))
    want = stream(model, None, IDS, 40)
    accelerate.disk_offload(model, tmp_path)
    with everlong.attach(model, everlong.Dense()) as handle:
        torch.testing.assert_close(stream(model, handle.new_cache(), IDS, 7), want, atol=1e-4, rtol=0)


GEMMA = COMMON | {"head_dim": 12, "sliding_window": 8, "hidden_size_per_layer_input": 8, "num_hidden_layers": 4}
SIGLIP = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8}


def gemma(version):
    """A tiny Gemma that takes images, too."""
    kind = getattr(transformers, f"Gemma{version}ForConditionalGeneration")
    text = GEMMA | {"layer_types": SHARED, "vocab_size_per_layer_input": VOCAB}
    given = {"image_token_id": VOCAB - 2, "boi_token_id": VOCAB - 3, "eoi_token_id": VOCAB - 4}
    if version == 3:
        given |= {"vision_config": SIGLIP | {"patch_size": 4}, "mm_tokens_per_image": 4, "image_token_index": VOCAB - 2}
    else:
        given |= {"audio_config": None, "video_token_id": VOCAB - 5, "audio_token_id": VOCAB - 6}
        text |= {"use_bidirectional_attention": "vision", "global_head_dim": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(kind.config_class(text_config=text, **given)).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(std=0.3)
    return model


@pytest.mark.parametrize("version", [3, 4])
def test_gemma_with_eyes_reads_text(version):
    model, ids = gemma(version), tokens(40, batch=2) % 90
    mask = torch.stack([torch.arange(40) >= pad for pad in (11, 0)]).long()
    with everlong.attach(model, everlong.Dense()) as handle, torch.no_grad():
        want = model(ids, attention_mask=mask).logits
        cache = handle.new_cache()
        got = [
            model(ids[:, a : a + 8], attention_mask=mask[:, : a + 8], past_key_values=cache) for a in range(0, 40, 8)
        ]
        got = torch.cat([x.logits for x in got], 1)
        for row, pad in enumerate((11, 0)):
            torch.testing.assert_close(got[row, pad:], want[row, pad:], atol=1e-3, rtol=0)
        text = model.generate(ids, attention_mask=mask, past_key_values=handle.new_cache(), max_new_tokens=5)
        assert torch.equal(text, model.generate(ids, attention_mask=mask, max_new_tokens=5))
        plain = handle.new_cache()
        types = {"token_type_ids" if version == 3 else "mm_token_type_ids": torch.zeros_like(ids)}
        model(ids, past_key_values=plain, **types)
        assert plain.stream.seen_tokens == 40


@pytest.mark.parametrize("version", [3, 4])
def test_gemma_with_eyes_says_that_images_are_not_handled(version):
    model, ids = gemma(version), tokens(20) % 90
    kinds = torch.zeros_like(ids)
    kinds[:, 4:8] = 1
    name = "token_type_ids" if version == 3 else "mm_token_type_ids"
    with everlong.attach(model, everlong.Dense()) as handle, torch.no_grad():
        cache = handle.new_cache()
        with pytest.raises(CapabilityError, match=f"{name}: .*image"):
            model(ids, past_key_values=cache, **{name: kinds})
        model(ids, past_key_values=cache)
        assert model.model.language_model.config._attn_implementation == "sdpa"
        cache.close()
    assert "forward" not in vars(model.model)
    assert "forward" not in vars(model.model.language_model)


def test_keys_of_an_image_in_a_layer_of_their_own_are_refused():
    """Mllama's cross-attention stores keys only where there is an image."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_global_layers": 1, "attention_heads": 2, "patch_size": 4}
    size |= {"image_size": 8, "vision_output_dim": 32, "intermediate_layers_indices": [0], "max_num_tiles": 1}
    kind = transformers.MllamaForConditionalGeneration
    text = COMMON | {"num_hidden_layers": 2, "cross_attention_layers": [1]}
    vision = size | {"supported_aspect_ratios": [[1, 1]], "intermediate_size": 16}
    model, ids = kind(kind.config_class(text_config=text, vision_config=vision)).eval(), tokens(20)
    image = {"pixel_values": torch.randn(1, 1, 1, 3, 8, 8), "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long)}
    image |= {"aspect_ratio_mask": torch.ones(1, 1, 1).long(), "cross_attention_mask": torch.ones(1, 20, 1, 1).long()}
    with everlong.attach(model, everlong.Dense()) as handle, torch.no_grad():
        cache = handle.new_cache()
        with pytest.raises(CapabilityError, match=r"layer 1: stores keys .*image"):
            model(ids, past_key_values=cache, **image)
        torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits, atol=1e-4, rtol=0)


def test_an_image_in_a_causal_text_is_stock():
    """Llava hands its decoder nothing but embeddings."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    kind = transformers.LlavaForConditionalGeneration
    vision = transformers.CLIPVisionConfig(**size, image_size=8, patch_size=4)
    text = transformers.LlamaConfig(**COMMON, num_hidden_layers=2)
    model = kind(kind.config_class(text_config=text, vision_config=vision, image_token_id=VOCAB - 2)).eval()
    ids, image = tokens(20), torch.randn(1, 3, 8, 8)
    ids[:, 3:7] = VOCAB - 2
    with everlong.attach(model, everlong.Dense()) as handle, torch.no_grad():
        cache = handle.new_cache()
        model(ids[:, :12], pixel_values=image, past_key_values=cache)
        got = model(ids[:, 12:], past_key_values=cache).logits
        torch.testing.assert_close(got, model(ids, pixel_values=image).logits[:, 12:], atol=1e-4, rtol=0)
