"""Calibration: masses equal a slow reference, a planted head is found, and the model stays as it was."""

from __future__ import annotations

import itertools
import random
import re
import zlib
from dataclasses import replace

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from everlong.errors import CapabilityError, ConfigError
from everlong.models.load import Loaded
from everlong.session.calibration import calibrate, look
from everlong.session.calibration.attention import BLOCK, SINKS, Watched, block_at, block_masses, blocks_of
from everlong.session.calibration.ranking import margins, recall, scores, vote
from everlong.session.calibration.texts import ASKED, KINDS, CalibrationQuestion, FactText, documentation, fact_text
from tests.families.configs import FAMILIES
from tests.families.models import build
from tests.families.models import tokens as tokens_of

WORDS = 4096


class Words:
    """A tokenizer of whole words, numbered by a checksum."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [zlib.crc32(word.encode()) % WORDS for word in re.findall(r"\w+|[^\w\s]", text)]}


def slow_masses(model, ids, question):
    """The masses [L, H, N] by loops over every number, from one forward over text and question in float64."""
    model = model.double()
    model.config._attn_implementation = "eager"
    with torch.inference_mode():
        found = model(torch.tensor([[*ids, *question]]), output_attentions=True).attentions
    layers = []
    for weights in found:
        heads = []
        for head in weights[0]:
            blocks = [0.0] * blocks_of(len(ids))
            for row in head[len(ids) :]:
                sums = [0.0] * len(blocks)
                for token in range(SINKS, len(ids)):
                    sums[block_at(token)] += float(row[token])
                blocks = [max(pair) for pair in zip(blocks, sums, strict=True)]
            heads.append(blocks)
        layers.append(heads)
    return torch.tensor(layers)


def gemma2():
    """Two layers, the first of which sees 100 tokens only."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    config = Gemma2Config(vocab_size=97, num_key_value_heads=2, sliding_window=100, query_pre_attn_scalar=8, **shape)
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("tokens", [SINKS + 1, SINKS + 2 * BLOCK, 700])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_masses_are_those_of_a_slow_reference(tiny_llama, family, tokens):
    model = tiny_llama(max_position_embeddings=1024) if family == "llama" else gemma2()
    ids, question = torch.randint(97, (tokens,)).tolist(), torch.randint(97, (5,)).tolist()
    watched = Watched(model)
    assert list(watched.read(ids))[-1] == tokens
    first = watched.ask(torch.randint(97, (9,)).tolist())
    masses = watched.ask(question)
    assert masses.dtype == torch.float32
    assert not torch.equal(first, masses)
    torch.testing.assert_close(masses, slow_masses(model, ids, question), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gemma3n", "gpt_oss", "deepseek_v3", "llama4", "falcon alibi", "bloom", "exaone4"])
def test_families_with_ways_of_their_own_show_their_attention(name):
    family = next(family for family in FAMILIES if family.name == name)
    model = build(family)
    watched = Watched(model)
    list(watched.read(tokens_of(100)[0].tolist()))
    masses = watched.ask(tokens_of(4, seed=2)[0].tolist())
    assert masses.shape[0] == model.config.get_text_config(decoder=True).num_hidden_layers
    assert masses.shape[2:] == (1,)
    assert bool((masses >= 0).all())
    assert bool((masses <= 1 + 1e-5).all())
    assert bool((masses > 0).any(-1).any(-1).all())


def test_a_window_hides_the_blocks_before_it():
    weights = torch.full((1, 2, 10), 0.1)  # the text has 300 tokens, of which the 8 newest are seen
    masses = block_masses(weights, 300)
    assert masses.shape == (1, 2)
    torch.testing.assert_close(masses[0], torch.tensor([0.0, 0.8]))


def test_the_margin_is_the_gold_block_less_the_best_other():
    masses = torch.tensor([[[[0.5, 0.2, 0.1]]], [[[0.3, 0.1, 0.2]]]])  # two questions, one layer, one head
    torch.testing.assert_close(margins(masses, [(0,), (1, 2)]).flatten(), torch.tensor([0.3, -0.1]))


def test_no_kind_decides_because_it_draws_more_attention():
    loud, quiet = [0.9, 0.0, 0.8], [0.0, 0.02, 0.019]
    found = scores(torch.tensor([[loud], [loud], [loud], [quiet]]), ["codes", "codes", "codes", "keys"])
    assert found.argmax() == 2


def test_a_kind_that_no_head_finds_has_no_say():
    found = scores(torch.tensor([[[0.8, 0.1]], [[-0.9, -0.01]]]), ["codes", "keys"])
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.125]]))
    torch.testing.assert_close(scores(torch.tensor([[[-0.8, -0.1]]]), ["keys"]), torch.tensor([[-0.8, -0.1]]))


def test_the_vote_sums_heads_and_recall_counts_any_block_of_a_fact():
    masses = torch.zeros(2, 2, 3, 4)
    masses[0, 1, 2, 3] = 0.4
    masses[0, 0, 0, 1] = 0.3
    masses[1, 0, 0, 2] = 0.2
    votes = vote(masses, [(1, 2), (0, 0)])
    torch.testing.assert_close(votes, torch.tensor([[0, 0.3, 0, 0.4], [0, 0, 0.2, 0]]))
    assert recall(votes, [(1,), (1, 2)], 1) == 0.5
    assert recall(votes, [(1,), (1, 2)], 2) == 1.0


def question_words():
    """The words, as ids, that all questions of a kind share: they say nothing about which fact is meant."""
    shared = set()
    for kind in KINDS.values():
        questions = [fact.question for group in kind(random.Random(0), 12) for fact in group]
        shared |= set.intersection(*(set(Words()(question)["input_ids"]) for question in questions))
    return sorted(shared)


def planted(tiny_llama, layer, head):
    """A Llama in which one head looks at tokens equal to its own, unless they are words of every question.

    The head's queries and keys are the second half of its input without the few dimensions that turn with the position.
    Nothing is added to the stream.
    """
    size = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}
    model = tiny_llama(vocab_size=WORDS, rope_theta=1e30, max_position_embeddings=4096, **size)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        model.model.embed_tokens.weight[question_words(), 64:] = 0
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        match = torch.zeros(64, 128)
        match[:, 64:] = 2 * torch.eye(64)
        match[[*range(5), *range(32, 37)]] = 0
        for projection in (model.model.layers[layer].self_attn.q_proj, model.model.layers[layer].self_attn.k_proj):
            projection.weight[64 * head : 64 * head + 64] = match
    return model


@pytest.mark.parametrize("place", [(0, 1), (1, 0)])
def test_a_planted_head_is_found_and_its_vote_finds(tiny_llama, place):
    model = planted(tiny_llama, *place)
    told = []
    heads = calibrate(
        Loaded(model, Words(), "planted"), seed=2, tokens=1400, advance=lambda done, words: told.append(done)
    )
    assert heads.heads[0] == place
    assert len(heads.heads) == 4
    assert heads.scores[0] > 0.5
    assert heads.scores[1] < 0.1
    assert heads.recall == 1.0
    assert heads.recall_first >= 0.8
    assert heads.questions == 16
    assert told == sorted(told)
    assert told[-1] == 100


def test_equal_seeds_give_equal_heads_and_the_model_stays_as_it_was(tiny_llama):
    model = planted(tiny_llama, 1, 1)
    loaded = Loaded(model, Words(), "planted")
    before = model.config._attn_implementation
    first, again = (calibrate(loaded, seed=5, tokens=800) for _ in range(2))
    assert first == again
    assert model.config._attn_implementation == before == "sdpa"


def test_the_attention_is_put_back_after_an_error(tiny_llama, monkeypatch):
    model = tiny_llama()
    watched = Watched(model)
    list(watched.read(range(90)))
    monkeypatch.setattr(model.model.layers[1], "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watched.ask([1, 2])
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_shows_no_attention_is_refused(tiny_llama, monkeypatch):
    model = tiny_llama()
    watched = Watched(model)
    list(watched.read(range(90)))
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, output_attentions=False, **k: forward(*a, **k))
    with pytest.raises(CapabilityError, match="LlamaForCausalLM gives the attention of 0 layers, expected 2"):
        watched.ask([1, 2])


def test_what_does_not_fit_is_refused(tiny_llama):
    loaded = Loaded(tiny_llama(max_position_embeddings=2048), Words(), "tiny")
    with pytest.raises(ConfigError, match=r"tokens=2000: .*expected 680 to 1,792"):
        calibrate(loaded, tokens=2000)
    with pytest.raises(ConfigError, match="tokens=300: "):
        calibrate(loaded, tokens=300)
    with pytest.raises(ConfigError, match="cannot be calibrated"):
        calibrate(Loaded(tiny_llama(), Words(), "tiny"))
    with pytest.raises(CapabilityError, match="no tokenizer"):
        calibrate(replace(loaded, tokenizer=None))


@pytest.mark.parametrize("tokens", [400, 2000])
def test_each_fact_stands_where_it_is_said_to_stand_and_is_asked_once(tokens):
    text = fact_text(Words(), 3, tokens, lead=SINKS)
    assert tokens <= len(text.ids) <= tokens + 120
    assert {one.kind for one in text.asked} == set(KINDS)
    assert len(text.asked) == len(KINDS) * min(ASKED, max(1, tokens // 340))
    assert len({one.question for one in text.asked}) == len(text.asked)
    for one in text.asked:
        assert SINKS <= one.start < one.end <= len(text.ids)
        fact = set(text.ids[one.start : one.end])
        asked_for = [word for word in one.question if text.ids.count(word) == 1 or word in fact]
        assert set(asked_for) & fact
    assert fact_text(Words(), 3, tokens, lead=SINKS) == text
    assert fact_text(Words(), 4, tokens, lead=SINKS) != text


def test_any_prose_can_stand_between_the_facts():
    text = fact_text(Words(), 0, 600, prose=itertools.repeat("nothing happened here"))
    filler = Words()("nothing happened here")["input_ids"]
    strewn = sum(text.ids[n : n + 3] == tuple(filler) for n in range(len(text.ids)))
    assert strewn > 50
    piece = next(documentation(random.Random(0)))
    assert len(piece) > 60
    assert piece.endswith(".")


def test_the_blocks_of_a_fact_are_those_it_touches(tiny_llama):
    cut = SINKS + BLOCK
    asked = (CalibrationQuestion("codes", (1, 2), cut - 3, cut + 2), CalibrationQuestion("codes", (3,), cut, cut + 5))
    found = look(tiny_llama(max_position_embeddings=512), FactText(tuple(range(90)) * 4, asked))
    assert found.golds == ((0, 1), (1,))
    assert found.masses.shape == (2, 2, 4, 3)
    assert found.tokens == 360
