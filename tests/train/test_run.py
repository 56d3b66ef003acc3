"""Whole runs on a tiny model: folders, metrics, resuming, stages, and what is refused."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

import everlong
from everlong.config import load_yaml
from everlong.errors import ConfigError
from everlong.train.recipe import read_recipe
from everlong.train.run import train

RECIPE = {
    "method": {"name": "infini", "segment": 32, "local": "segment", "beta": 0.0},
    "scratch": {
        "llama": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
        }
    },
    "optimiser": {"lr": 4e-3, "warmup_steps": 2},
    "stages": [
        {"steps": 4, "batch": 4, "length": 128, "data": {"passkey": {}}},
        {
            "steps": 4,
            "batch": 2,
            "length": 160,
            "lr": 0.5,
            "method": {"local": "xl"},
            "data": {"passkey": {"repeat": 8}},
        },
    ],
    "checkpoint_every": 3,
    "log_every": 1,
    "held_out": 3,
}


def written(folder, **changes):
    path = folder / "asked.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return path


def losses(out):
    return {row["step"]: row["loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: (its folder, what it said, its result)."""
    folder, said = tmp_path_factory.mktemp("train"), list[str]()
    return folder / "run", said, train(read_recipe(written(folder)), folder / "run", tell=said.append)


def test_a_run_leaves_metrics_and_a_model_that_reads(run):
    out, said, result = run
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [len(row["beta"]) for row in rows] == [2] * 8
    assert all(row["tokens"] > 0 and len(row["memory_norm"]) == 2 for row in rows)
    assert max(row["memory_norm"][0] for row in rows) > 0
    assert any(line.startswith("step 8/8") for line in said)
    loaded = everlong.load(out / "model")
    assert loaded.method == everlong.Infini(segment=32, local="xl", beta=0.0)
    assert loaded.model.config.use_cache
    with everlong.Session(loaded, loaded.method) as session:
        session.feed("The grass is green. The sky is blue." * 30)
        assert session.report().compressed_tokens > 0
    assert result == json.loads((out / "result.json").read_text())
    assert list(result["ablation"]) == ["on", "off", "zeroed", "reset:64"]
    assert result["ablation"]["on"]["loss"] != result["ablation"]["off"]["loss"]
    assert load_yaml(out / "recipe.yaml")["stages"][1]["lr"] == 0.5


def test_a_memory_is_drawn_from_the_recipe_and_held_against_one_that_is_emptied(tmp_path):
    stages = [{"steps": 1, "batch": 2, "length": 200, "data": {"needles": {"needles": [1, 3], "questions": "all"}}}]
    memories = []
    for n, seed in enumerate((0, 0, 1)):
        torch.manual_seed(n)
        folder = tmp_path / str(n)
        folder.mkdir()
        changes = {"method": {"name": "delta", "segment": 16}, "stages": stages, "seed": seed}
        result = train(read_recipe(written(folder, **changes)), folder / "run")
        memories.append(everlong.load(folder / "run" / "model").model.model.everlong_memory.taps_q)
    assert list(result["ablation"]) == ["on", "off", "zeroed", "reset:32"]
    assert torch.equal(memories[0], memories[1])
    assert not torch.equal(memories[0], memories[2])


def test_gates_have_a_learning_rate_of_their_own(run):
    """Adam moves a parameter by about its learning rate a step: the gates' is five times the model's here."""
    out, *_ = run
    gates = everlong.load(out / "model").model.model.everlong_memory.beta
    assert gates.abs().max() > 0.02


def in_a_copy(work):
    """The process id of a copy of this process that does `work` and ends with 0 if it could."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_killed_run_goes_on_with_the_same_losses(run, tmp_path):
    out, *_ = run
    recipe = written(tmp_path)
    child = in_a_copy(lambda: train(read_recipe(recipe), tmp_path / "run"))
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 240
    while time.monotonic() < until and not (metrics.is_file() and '"step": 5' in metrics.read_text()):
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(read_recipe(recipe), tmp_path / "run", resume=True)
    torch.set_num_threads(threads)
    expected = losses(out)
    assert losses(tmp_path / "run").keys() == expected.keys()
    for step, loss in losses(tmp_path / "run").items():
        assert loss == pytest.approx(expected[step], rel=1e-5), step


def test_two_processes_share_the_work(run, tmp_path):
    """Copies of this process in the places where torchrun would start new ones."""
    out, *_ = run
    recipe = read_recipe(written(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}

    def work(rank):
        os.environ.update(meet | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        train(recipe, tmp_path / "run")

    children = [in_a_copy(lambda rank=rank: work(rank)) for rank in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    for step, loss in losses(tmp_path / "run").items():
        assert loss == pytest.approx(losses(out)[step], rel=1e-4), step


@pytest.mark.slow(reason="`make test` shares the work between copies of the test's process")
def test_two_processes_of_torchrun_share_the_work(run, tmp_path):
    out, *_ = run
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["-m", "everlong", "train", str(written(tmp_path)), "--out", str(tmp_path / "run"), "--threads", "1"]
    ended = subprocess.run([*launch, *command], check=False, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for step, loss in losses(tmp_path / "run").items():
        assert loss == pytest.approx(losses(out)[step], rel=1e-4), step


def test_rows_one_after_the_other_change_no_number(run, tmp_path):
    out, *_ = run
    train(read_recipe(written(tmp_path, rows_at_once=1)), tmp_path / "run")
    for step, loss in losses(tmp_path / "run").items():
        assert loss == pytest.approx(losses(out)[step], rel=1e-4), step


def test_truncated_gradients_and_checkpointing_run(tmp_path):
    stage = RECIPE["stages"][0] | {"steps": 2}
    said: list[str] = []
    whole = tmp_path / "whole"
    train(read_recipe(written(tmp_path, stages=[stage], checkpointing=True)), whole, tell=said.append)
    cut = tmp_path / "cut"
    train(read_recipe(written(tmp_path, stages=[stage | {"bptt_segments": 1}])), cut, tell=said.append)
    assert any("never learns to write" in line for line in said)
    assert losses(cut)[1] == pytest.approx(losses(whole)[1], rel=1e-5)
    assert losses(cut)[2] != losses(whole)[2]


def test_only_the_memory_is_trained_if_so_asked(run, tmp_path):
    base, *_ = run
    changes = {"scratch": None, "model": str(base / "model"), "train": "memory", "stages": RECIPE["stages"][1:]}
    recipe = {k: v for k, v in (RECIPE | changes).items() if v is not None}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    before, after = (everlong.load(folder / "model").model.state_dict() for folder in (base, tmp_path / "run"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.everlong_memory.beta"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "expected `stages`"),
        ({"method": {"name": "sinks"}, "stages": RECIPE["stages"][:1]}, "sinks"),
        ({"method": {"name": "infini", "segments": 3}}, "segments"),
        ({"model": "smollm2"}, "give `model` .* or `scratch`"),
        ({"optimiser": {"lr": 0}}, "lr=0"),
        ({"optimiser": {"speed": 1}}, "no option 'speed'"),
        ({"train": "memory"}, "train=memory: a model from scratch"),
        ({"scratch": {"llama": {"hiden_size": 3}}}, "llama.hiden_size"),
        ({"scratch": {"tokenizer": "bpe"}}, "tokenizer=bpe"),
        ({"trainer": {"max_steps": 3}}, "trainer.max_steps: is set"),
        ({"trainer": {"gradient_accumulation_steps": 4}}, "gradient_accumulation_steps: .*use rows_at_once"),
        ({"trainer": {"gradient_checkpointing": False}}, "gradient_checkpointing: .*use checkpointing"),
        ({"trainer": {"fsdp": "full_shard auto_wrap"}}, "trainer.fsdp=full_shard auto_wrap: has no effect in one proc"),
        ({"trainer": {"fsdp": True, "fsdp_config": {}}}, "trainer.fsdp=True: .*accelerate launch .* or leave it out"),
        ({"trainer": {"fsdp_config": {"version": 2}}}, "trainer.fsdp_config=.*: has no effect without trainer.fsdp"),
        ({"trainer": {"activation_checkpointing_kwargs": {}}}, "no effect without checkpointing; add it"),
        ({"trainer": {"ddp_backend": "gloo"}}, "trainer.ddp_backend=gloo: has no effect in one process"),
        ({"trainer": {"fp16": True, "use_cpu": True}}, "trainer.fp16=True: has no effect on a CPU; use bf16"),
        ({"trainer": {"learning_rate": 1.0}}, "trainer.learning_rate: .*use optimiser.lr"),
        ({"trainer": {"optim": "adafactor"}}, "trainer.optim=adafactor: has no effect .*leave it out"),
        ({"trainer": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor=0.1: has no effect"),
        ({"trainer": {"eval_strategy": "steps"}}, "eval_strategy=steps: has no effect"),
        ({"trainer": {"dataloader_pin_memory": False}}, "dataloader_pin_memory=False: has no effect"),
        ({"trainer": {"deepspeed": {"zero_optimization": {"stage": 2}}}}, "trainer: .*deepspeed"),
        ({"optimiser": {"decay": "constant", "final": 0.5}}, "final=0.5: has no effect with decay=constant"),
        ({"scratch": RECIPE["scratch"] | {"vocabulary": 99}}, "vocabulary=99: has no effect with tokenizer=closed"),
        (
            {"method": {"name": "transformer_xl", "segment": 32}, "optimiser": {"gate_lr": 0.1}},
            "gate_lr=0.1: .*no gates",
        ),
        ({"optimiser": {"write_lr": 0}}, "write_lr=0: must be a positive number, or left out"),
        ({"optimiser": {"write_lr": 0.1}}, "write_lr=0.1: infini has no strengths of writing"),
        ({"cache": "folder"}, "cache=folder: no task .* reads books"),
        ({"held_out": 0}, "held_out=0"),
        ({"log_every": 0}, "log_every=0"),
        ({"checkpoint_every": -1}, "checkpoint_every=-1"),
        ({"rows_at_once": 0}, "rows_at_once=0"),
        ({"trainer": {"speed": 3}}, "trainer: .*speed"),
        ({"stages": [RECIPE["stages"][0] | {"data": {"passkeys": {}}}]}, "did you mean 'passkey'"),
        ({"stages": [RECIPE["stages"][0] | {"length": 20}]}, "length=20"),
        ({"stages": [RECIPE["stages"][0] | {"steps": 0}]}, "steps=0"),
        ({"colour": 1}, "no option 'colour'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, changes, message):
    with pytest.raises(everlong.EverlongError, match=message) as error:
        train(read_recipe(written(tmp_path, **changes)), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_the_cache_of_a_recipe_is_that_of_its_books(tmp_path):
    data = {"books": {"data": "one"}, "natural": {"data": "two", "cache": "own"}, "passkey": {}}
    recipe = read_recipe(written(tmp_path, cache="folder", stages=[RECIPE["stages"][0] | {"data": data}]))
    found = [task.as_dict().get("cache") for _, task in recipe.stages[0].tasks()]
    assert found == ["folder", "own", None]


def test_sharding_that_cpus_do_not_have_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = read_recipe(written(tmp_path, trainer={"fsdp": True, "use_cpu": True}))
    with pytest.raises(ConfigError, match=r"trainer.fsdp=True: has no effect on CPUs, where each of the 2 processes"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_another_process_trains_in_is_refused(run, tmp_path):
    out, *_ = run
    metrics = (out / "metrics.jsonl").read_bytes()
    facts = (out / "run.json").read_text()
    with contextlib.ExitStack() as held:
        other = os.open(out, os.O_RDONLY)
        held.callback(os.close, other)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ConfigError, match="another process trains here"):
            train(read_recipe(written(tmp_path)), out, resume=True)
    assert ((out / "metrics.jsonl").read_bytes(), (out / "run.json").read_text()) == (metrics, facts)


def test_a_folder_of_another_run_is_refused(run, tmp_path):
    out, *_ = run
    recipe = read_recipe(written(tmp_path))
    with pytest.raises(ConfigError, match="add --resume"):
        train(recipe, out)
    with pytest.raises(ConfigError, match="another recipe"):
        train(replace(recipe, seed=5), out, resume=True)
    with pytest.raises(ConfigError, match="no run to go on with"):
        train(recipe, tmp_path / "new", resume=True)
    with pytest.raises(ConfigError, match="is not empty"):
        train(recipe, tmp_path)


def test_strengths_of_writing_may_learn_at_a_rate_of_their_own(tmp_path):
    """Adam's first step moves a number by its learning rate, so the first step of two rates shows which it was."""
    found = []
    for write_lr in (None, 0.05):
        folder = tmp_path / str(write_lr)
        folder.mkdir()
        changes = {
            "method": {"name": "delta", "segment": 32, "start": 0.1},
            "optimiser": {"lr": 4e-3, "warmup_steps": 1, "write_lr": write_lr},
            "stages": [{"steps": 1, "batch": 2, "length": 128, "data": {"passkey": {}}}],
        }
        train(read_recipe(written(folder, **changes)), folder / "run")
        files = ("memory.safetensors", "model.safetensors")
        found.append({k: x for file in files for k, x in load_file(folder / "run" / "model" / file).items()})
    one, other = found
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    assert [name.split(".")[-1] for name in differ] == ["w_b"]
    moved = (one[differ[0]] - other[differ[0]]).abs().max()
    assert abs(float(moved) - 0.046) < 0.002
