"""docs/families.md says what the models do, and how many do it."""

from __future__ import annotations

import re

import pytest

from scripts.families import PAGE, stale
from tests.families.chosen import PUSH, REST
from tests.families.configs import FAMILIES
from tests.families.sweep import sweep
from tests.families.zoo import causal_classes, image_classes

CHOSEN = tuple(family for family in FAMILIES if family.name in PUSH or family.refused)
SAMPLE = {
    "LlamaForCausalLM": "attention alone",
    "GraniteMoeHybridForCausalLM": "SSM beside attention without positions",
    "Zamba2ForCausalLM": "modules of attention that layers share",
    "NemotronHForCausalLM": "layers that neither attend nor keep a state",
    "DeepseekV3ForCausalLM": "latent keys",
    "FalconForCausalLM": "attention reached by another hook",
    "BartForCausalLM": "learned positions",
    "MambaForCausalLM": "no attention at all",
    "InklingForCausalLM": "a bias by distance",
    "MusicgenForCausalLM": "many embeddings",
    "Qwen2_5_VLForConditionalGeneration": "positions of three axes",
    "LlavaForConditionalGeneration": "images that are embeddings among others",
    "PaliGemmaForConditionalGeneration": "tokens of a prompt that see each other",
}
"""The classes that each push measures, one for each mechanism; the rest is slow."""
CLASSES = [pytest.param(n, marks=() if n in SAMPLE else REST) for n in (*causal_classes(), *image_classes())]


@pytest.mark.parametrize("family", [pytest.param(f, id=f.name, marks=() if f in CHOSEN else REST) for f in FAMILIES])
def test_the_page_is_fresh(family):
    assert stale([family], []) == [], "run: python -m scripts.families"


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_exact_or_refused_with_a_reason_as_the_page_says(name):
    found = sweep(name)
    assert not found.wrong, found
    assert stale([], [found]) == [], "run: python -m scripts.families"


def test_the_page_counts_what_must_be_reached():
    text = PAGE.read_text()
    counts = re.findall(r"classes (\d+) are exact.*Of the exact ones (\d+) have.*\((\d+) with", text)
    causal, images = (tuple(map(int, found)) for found in counts)
    assert causal[0] >= 105
    assert causal[1] >= causal[2] >= 10
    assert images[0] >= 45
    assert "WRONG" not in text
