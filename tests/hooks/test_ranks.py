"""Models spread over processes: two gloo processes do all of it once, and each test looks at a part."""

from __future__ import annotations

import multiprocessing
import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import Olmo2Config, Olmo2ForCausalLM

import everlong
from everlong.hooks.training import attach_training
from tests.hooks import ranks_worker as work

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo"
)
SECONDS = 120


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    """Models: one whose heads can be shared out, one whose keys have a norm over all heads, one with an odd head."""
    path = tmp_path_factory.mktemp("ranks")
    shape = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    tiny_llama(num_hidden_layers=3, **shape).save_pretrained(path / "model")
    tiny_llama(num_key_value_heads=1).save_pretrained(path / "odd")
    config = Olmo2Config(vocab_size=97, intermediate_size=48, num_hidden_layers=2, pad_token_id=None, **shape)
    torch.manual_seed(1)
    Olmo2ForCausalLM(config).save_pretrained(path / "normed")
    return path


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, Any]]:
    """What each of two processes found."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.hooks.ranks_worker"])
    started = [context.Process(target=work.worker, args=(rank, folder)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
    stuck = [process for process in started if process.is_alive()]
    for process in stuck:
        process.kill()
    assert not stuck, "a process waits for the other"
    assert [process.exitcode for process in started] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, Any]:
    """What a single process gives."""
    model = work.loaded(folder)
    return work.streams(model) | {
        "written": work.written(model),
        "normed": work.streams(work.loaded(folder, "normed"), "blocks"),
    }


@pytest.mark.parametrize("chunk", work.CHUNKS)
@pytest.mark.parametrize("method", work.METHODS)
def test_sharded_heads_give_the_whole_models_logits(ranks, alone, method, chunk):
    expected = alone[f"{method} {chunk}"]
    for found in ranks:
        torch.testing.assert_close(found[f"{method} {chunk}"], expected, rtol=0, atol=1e-5)


def test_citations_count_the_heads_of_all_ranks(ranks, alone):
    for name, cited in alone.items():
        if name.endswith("cited"):
            for found in ranks:
                assert found[name] == pytest.approx(cited, rel=1e-4)
                assert found[name] == ranks[0][name]


def test_weights_that_are_sharded_and_heads_that_are_not(ranks, alone):
    for name, expected in alone["normed"].items():
        for found in ranks:
            got = found["replicated"][name]
            if name.endswith("cited"):
                assert got == pytest.approx(expected, rel=1e-4)
            else:
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_session_writes_the_same_on_every_rank(ranks, alone):
    assert [found["written"] for found in ranks] == [alone["written"]] * 2
    assert ranks[0]["squeezed"] == ranks[1]["squeezed"]
    assert ranks[0]["squeezed"][-1] > 0


REFUSED = {
    "infini": "AttachError: infini: its parameters .* shared out to 2 ranks; load the model whole, or use blocks",
    "per_head": "CapabilityError: per_head=True: .*2 ranks.*leave it out",
    "training": "AttachError: attach_training: the heads .* 2 ranks",
    "store": "CapabilityError: store: .*sharded over ranks.*leave store out",
    "save": "CapabilityError: fingerprint: .*sharded over ranks.*load it whole",
    "question": "CapabilityError: recall=question: .*give recall=layer",
    "temperature": "CapabilityError: temperature=0.5: .*give a seed",
    "odd": "AttachError: LlamaForCausalLM: sharded over 2 ranks it cannot read a token, .*divide its heads of keys",
    "pipeline": r"AttachError: attach: LlamaForCausalLM is one stage of a pipeline .*tp_size",
    "fsdp": r"AttachError: attach: FSDP\w+ was sharded by FSDP.*attach the model itself first",
    "fsdp config": r"AttachError: attach: FSDP\w+ was sharded by FSDP.*attach the model itself first",
    "fsdp1": r"AttachError: attach: got FullyShardedDataParallel, .*attach the model itself first.*model.module",
    "ddp": r"AttachError: attach: got DistributedDataParallel, .*attach the model itself first.*model.module",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(ranks, name):
    for found in ranks:
        assert_says(found[name], REFUSED[name])
        for more in ("training", "session"):
            if f"{name} {more}" in found:
                assert_says(found[f"{name} {more}"], r"AttachError: (attach_training|attach|model): .*(first|tp_size)")


def assert_says(found: str, pattern: str) -> None:
    """One line, as a user sees it."""
    assert "\n" not in found, found
    assert re.match(pattern, found), found


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp1"])
def test_what_was_attached_first_may_be_wrapped(ranks, alone, folder, name):
    model = work.loaded(folder)
    with everlong.attach(model, work.METHODS["sinks"]) as handle, torch.no_grad():
        expected = model(work.IDS, past_key_values=handle.new_cache()).logits[0]
    for found in ranks:
        torch.testing.assert_close(found[f"{name} after"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp1"])
def test_what_trains_and_was_attached_first_may_be_wrapped(ranks, folder, name):
    model = work.loaded(folder)
    with attach_training(model, work.INFINI) as training:
        expected = work.trained(model, training)
    for found in ranks:
        got = found[f"{name} trained"]
        assert len(got) == (1 if name == "fsdp1" else len(expected))
        torch.testing.assert_close(got, expected[: len(got)], rtol=1e-4, atol=1e-6)


def test_a_recipe_over_fsdp_ends_as_in_one_process(ranks, tmp_path):
    expected = work.run_recipe(tmp_path)
    first, other = (found["recipe"] for found in ranks)
    assert other == {}
    assert first["gates"] == expected["gates"]
    for control, values in expected["ablation"].items():
        assert first["ablation"][control] == pytest.approx(values, rel=1e-4)


def test_a_sharded_model_is_given_back_as_it_was(ranks):
    assert [found["as it was"] for found in ranks] == [(True, "sdpa")] * 2
