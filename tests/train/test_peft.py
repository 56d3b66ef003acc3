"""PEFT beside a memory: LoRA trains the model, modules_to_save the memory, and both come back."""

from __future__ import annotations

import pytest
import torch
import transformers

import everlong
from everlong.hooks.training import attach_training

peft = pytest.importorskip("peft", reason="the extra everlong[train] is not installed")
METHOD = everlong.Infini(segment=8, beta=0.0)
IDS = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it by its old name
def test_the_memory_is_trained_and_saved_with_the_adapter(tiny_llama, tmp_path):
    shape = {"num_hidden_layers": 2, "initializer_range": 0.3}
    model = tiny_llama(**shape)
    with attach_training(model, METHOD):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["everlong_memory"])
        wrapped = peft.get_peft_model(model, config)
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        assert any(p.shape == (2, 4) for p in trained)
        optimiser = torch.optim.AdamW(trained, lr=0.05)
        losses = []
        for _ in range(12):
            optimiser.zero_grad()
            loss = wrapped(input_ids=IDS, labels=IDS).loss
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        with torch.no_grad():
            expected = wrapped.eval()(input_ids=IDS).logits
        gates = wrapped.base_model.model.model.everlong_memory(0)["beta"].detach()
        assert gates.abs().max() > 0.05
    wrapped.save_pretrained(tmp_path)
    fresh = tiny_llama(**shape)
    with attach_training(fresh, METHOD), torch.no_grad():
        again = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        torch.testing.assert_close(again(input_ids=IDS).logits, expected)
    assert isinstance(fresh, transformers.LlamaForCausalLM)
