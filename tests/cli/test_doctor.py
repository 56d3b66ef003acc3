"""`everlong doctor` from end to end."""

from __future__ import annotations

import pytest
import transformers

from everlong.cli.families import EXACT, REFUSED
from everlong.hooks.adapter import load
from everlong.hooks.attach import attach
from everlong.methods import Delta, Infini, InfinityFormer, Sinks, TransformerXL, Window
from everlong.ops.native import extension
from everlong.session.session import Session
from tests.families.configs import FAMILIES


def test_packed_weights_are_told(everlong, tiny):
    ended = everlong("doctor", "--model", tiny, "--weights", "int4", "--json", "-o", "window=40")
    found = ended.json["model"]
    full = everlong("doctor", "--model", tiny, "--json", "-o", "window=40").json["model"]
    assert found["weights"] == "int4"
    assert full["weights"] == "full"
    assert found["parameters"] == full["parameters"]
    assert found["weight_bytes"] < full["weight_bytes"]


def test_json_says_what_there_is_and_what_works(everlong, tiny):
    ended = everlong("doctor", "--model", tiny, "-o", "sinks=2", "-o", "window=40", "--json")
    assert ended.code == 0
    assert ended.err == ""
    found = ended.json
    assert list(found) == ["machine", "versions", "model", "packing", "program", "methods", "families"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["kernels"].startswith(("C, ", "torch"))
    assert found["machine"]["memory_bytes"] > 10**8
    assert found["versions"]["transformers"] == transformers.__version__
    facts = {"layers": 2, "query_heads": 4, "kv_heads": 2, "trained_length": 128, "rope_type": "default"}
    assert facts.items() <= found["model"].items()
    assert found["model"]["chat_template"] is True
    assert found["packing"] == {"packs": True, "reason": None}
    reason = None if extension() else "there is no C extension"
    assert found["program"] == {"recorded": reason is None, "reason": reason}
    methods = {row["method"]: row for row in found["methods"]}
    names = [
        "blocks(sinks=2, window=40, block=128, top_k=8)",
        str(Delta()),
        "dense()",
        str(Infini()),
        str(InfinityFormer()),
        "recompute(window=40)",
        "sinks(sinks=2, window=40)",
        str(TransformerXL()),
        "window(window=40)",
    ]
    assert sorted(methods) == names
    assert all(row["works"] for row in methods.values())
    assert methods["dense()"]["cache_bytes"] is None
    assert methods["dense()"]["bytes_per_token"] == 2 * 2 * 2 * 8 * 4
    assert methods["recompute(window=40)"]["cache_bytes"] == 0


@pytest.mark.parametrize("method", [Sinks(sinks=2, window=40), Window(window=40)])
def test_the_cost_is_what_a_session_takes(everlong, tiny, text_file, method):
    options = [part for name, value in method.as_dict().items() for part in ("-o", f"{name}={value}")]
    rows = everlong("doctor", "--model", tiny, "--json", *options).json["methods"]
    cost = next(row["cache_bytes"] for row in rows if row["method"] == str(method))
    with Session(load(tiny), method) as session:
        session.feed(text_file.read_text())
        assert session.report().bytes["device"] == cost


def test_words_name_every_method_and_the_next_step(everlong, tiny):
    ended = everlong("doctor", "--model", tiny)
    assert "trained length  128" in ended.out
    assert "many streams    packed into one forward" in ended.out
    for name in ("dense()", "recompute(window=1020)", "sinks(sinks=4, window=1020)", "window(window=1020)"):
        assert any(line.startswith(f"  {name} ") and "works" in line for line in ended.out.splitlines())
    assert ended.err.startswith("Next: ")


@pytest.fixture
def learned_positions(tmp_path) -> str:
    """A model that cannot be attached: its positions are learned vectors."""
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=50)
    config.bos_token_id = config.eos_token_id = None
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_model_that_cannot_be_attached_is_refused_with_the_reason(everlong, learned_positions):
    ended = everlong("doctor", "--model", learned_positions, "--json")
    assert ended.code == 0
    rows = [row for row in ended.json["methods"] if row["method"] != "recompute(window=1020)"]
    assert not any(row["works"] for row in rows)
    assert all("learned" in row["how"] for row in rows)
    assert "learned" in ended.json["packing"]["reason"]
    generate = everlong("bench", "--model", learned_positions, "--cache", 16)
    assert generate.code == 2
    assert "learned" in generate.err
    assert len(generate.err.splitlines()) == 1


def test_a_model_that_does_not_pack_says_why(everlong, tmp_path):
    config = transformers.BloomConfig(vocab_size=60, hidden_size=16, n_layer=1, n_head=2)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    ended = everlong("doctor", "--model", tmp_path)
    assert ended.code == 0
    assert "many streams    one by one: its attention" in ended.out
    assert "one token       by its modules: its attention" in ended.out


def test_the_families_are_those_that_were_measured():
    measured = {str(family).split()[0] for family in FAMILIES if family.refused is None}
    assert set(EXACT) == measured
    assert set(REFUSED) == {str(family).split()[0] for family in FAMILIES} - measured


def test_the_model_is_restored(tiny):
    model = load(tiny).model
    before = dict(model.model.__dict__)
    attach(model, Sinks()).detach()
    assert dict(model.model.__dict__).keys() == before.keys()
