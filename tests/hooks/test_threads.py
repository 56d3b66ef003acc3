"""One model in several threads: sessions and plain calls all go on, each with the numbers that it has alone."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
import transformers

from everlong import Blocks, Session, Sinks
from tests.session.keeping import IDS, SMALL, answer

PROMPT = torch.tensor([IDS[:40]])


@pytest.fixture(autouse=True)
def _often():
    """Threads change places far more often than they usually do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def llama(**fields):
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, initializer_range=0.3, **fields)).eval()


def gptj():
    shape = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 64}
    return transformers.GPTJForCausalLM(transformers.GPTJConfig(**shape)).eval()


def falcon():
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.FalconForCausalLM(
        transformers.FalconConfig(**shape, alibi=False, max_position_embeddings=64)
    ).eval()


def eager():
    return llama(attn_implementation="eager")


def read(model, method):
    with Session(model, method, chunk=16) as session:
        session.feed(IDS[:90])
        return answer(session)


def call(model):
    with torch.inference_mode():
        return [model(PROMPT, attention_mask=torch.ones_like(PROMPT)).logits for _ in range(40)][-1].tolist()


@pytest.mark.parametrize("make", [llama, eager, gptj, falcon])
def test_sessions_and_plain_calls_go_on_side_by_side(make):
    model = make()
    works = [
        lambda: read(model, Blocks(**SMALL)),
        lambda: read(model, Sinks(sinks=4, window=20)),
        lambda: call(model),
    ]
    expected = [work() for work in works]
    found = [None] * len(works)

    def run(n):
        for _ in range(2):
            found[n] = works[n]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    assert "forward" not in vars(model.get_decoder())
