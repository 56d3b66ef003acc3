"""Every family's token from a recorded list: what its modules give, beyond the window; and which run by modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everlong.engine.stream import TokenStream
from everlong.hooks import patch
from everlong.hooks.program.run import Program
from everlong.models.load import Loaded
from everlong.ops.native import extension
from tests.families.configs import FAMILIES, Family
from tests.families.measure import TIGHT
from tests.families.models import build, tokens

RECORDED = {"llama", "llama linear", "llama yarn", "llama llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"}
RECORDED |= {"phi", "phi3", "olmo2", "stablelm", "gpt_neox", "smollm3", "glm4", "cohere", "cohere2", "granite"}
RECORDED |= {"starcoder2", "ministral3", "modernbert_decoder", "ernie4_5", "exaone4", "hunyuan_v1_dense", "nemotron"}
RECORDED |= {"bitnet", "seed_oss"}
"""The others: experts, other keys than those that are cached, attention or positions of their own, learned bends."""


ATTENDED = {"llama yarn", "qwen3", "gemma3", "phi", "cohere2", "modernbert_decoder", "gemma2", "ministral3"}
"""Those that are built with heads wide enough for the extension, too."""
BETWEEN = {"gemma2", "ministral3"}
"""Of them: scores with a cap, queries scaled by their place; the list is left for each attention."""


@pytest.mark.skipif(extension() is None, reason="the C extension was not built")
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.refused is None], ids=str)
def test_tokens_from_a_list_are_those_of_the_modules(family: Family, monkeypatch):
    assert bool(same_as_modules(build(family), monkeypatch)) == (str(family) in RECORDED)


@pytest.mark.skipif(extension() is None, reason="the C extension was not built")
@pytest.mark.parametrize("family", [f for f in FAMILIES if str(f) in ATTENDED], ids=str)
def test_attentions_in_the_list_are_those_of_the_modules(family: Family, monkeypatch):
    wide = {name: 16 for name in ("head_dim", "global_head_dim") if name in family.fields}
    model = build(replace(family, fields={**family.fields, "hidden_size": 64, **wide}))
    between = []
    step_by_step = Program._between

    def counted(self, steps, words):
        between.extend(1 for step, _ in steps if step.tokens == 1)
        step_by_step(self, steps, words)

    monkeypatch.setattr(Program, "_between", counted)
    assert same_as_modules(model, monkeypatch)
    assert bool(between) == (str(family) in BETWEEN)


def same_as_modules(model, monkeypatch) -> int:
    """How many of ten tokens were run from a list; all are as the modules give them."""
    text = tokens(160)[0]
    found = []
    runs = []
    run = Program.run

    def counted(self, steps, inputs):
        runs.extend(1 for _ in inputs if len(inputs) == 1)
        return run(self, steps, inputs)

    monkeypatch.setattr(Program, "run", counted)
    for from_list in (True, False):
        if not from_list:
            monkeypatch.setattr(patch, "runs_from_list", lambda *args: False)
        with TokenStream(Loaded(model, None, "m"), TIGHT, 40) as stream:
            stream.feed(text[:150])
            for token in text[150:].tolist():
                stream.feed([token])
                found.append(stream.prediction)
    torch.testing.assert_close(torch.stack(found[:10]), torch.stack(found[10:]), atol=1e-4, rtol=0)
    return len(runs)
