"""What two processes do with sharded models, and what a single one gives; test_ranks.py compares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, DistributedConfig
from transformers.utils import logging

import everlong
from everlong.errors import EverlongError
from everlong.hooks.training import attach_training
from everlong.methods import Method
from everlong.train import trainer
from everlong.train.recipe import read_recipe
from everlong.train.run import train

SMALL = {"sinks": 4, "window": 24, "block": 8, "top_k": 3, "exec_chunk": 8, "pool": 4, "recall": "layer"}
METHODS: dict[str, Method] = {
    "dense": everlong.Dense(),
    "sinks": everlong.Sinks(sinks=4, window=24),
    "blocks": everlong.Blocks(**SMALL),
    "mean": everlong.Blocks(**SMALL, digest="mean", positions="far", neighbours=1, codec="native"),
    "transformer_xl": everlong.TransformerXL(segment=12),
}
CHUNKS = (19, 114)
READ, IDS = 114, torch.randint(97, (1, 118), generator=torch.Generator().manual_seed(5))
BLOCKS, INFINI = METHODS["blocks"], everlong.Infini(segment=8)


def streams(model: Any, *names: str) -> dict[str, Any]:
    """By method and chunk: logits of a text that is read in chunks and answered token by token, and citations."""
    found: dict[str, Any] = {}
    for name in names or METHODS:
        with everlong.attach(model, METHODS[name]) as handle, torch.no_grad():
            for chunk in CHUNKS:
                cache = handle.new_cache(chunk)
                pieces = list(IDS[:, :READ].split(chunk, 1))
                logits = [model(piece, past_key_values=cache, use_cache=True).logits for piece in pieces]
                if cache.blocks is not None:
                    cache.blocks.answering = True
                logits += [model(one, past_key_values=cache).logits for one in IDS[:, READ:].split(1, 1)]
                found[f"{name} {chunk}"] = torch.cat(logits, 1)[0]
                if cache.blocks is not None:
                    found[f"{name} {chunk} cited"] = cache.blocks.rows[0].done.cited
                cache.close()
    return found


def written(model: Any, **budget: Any) -> list[int]:
    """What a session over the model writes, greedily and then drawn; how many tokens it dropped."""
    with everlong.Session(model, BLOCKS, chunk=64, **budget) as stream:
        stream.feed(IDS[0])
        greedy = stream.generate(max_new_tokens=3).token_ids
        drawn = stream.generate(max_new_tokens=3, temperature=1.0, seed=3).token_ids
        return [*greedy, *drawn, stream.report().dropped_tokens]


def said(action: Callable[[], Any]) -> str:
    """The class and message of the error that an action raises."""
    try:
        return f"no error: {action()}"
    except (EverlongError, RuntimeError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def worker(rank: int, folder: Path) -> None:
    """One of two processes: everything that it found goes to a file."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    found = sharded(folder) | refused(folder) | wrapped(folder) | {"recipe": over_fsdp(folder, rank)}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def loaded(folder: Path, name: str = "model", **sizes: int) -> Any:
    """The model in the folder, whole or sharded as `sizes` say."""
    config = DistributedConfig(**sizes) if sizes else None
    return AutoModelForCausalLM.from_pretrained(folder / name, distributed_config=config).eval()


def sharded(folder: Path) -> dict[str, Any]:
    """What a tensor-parallel model gives."""
    model = loaded(folder, tp_size=2)
    found = streams(model) | {"written": written(model)}
    found["squeezed"] = written(model, host_budget=11_000, when_full="least-used")
    free = everlong.Session(model, BLOCKS)
    free.feed(IDS[0, :40])
    asking = everlong.Blocks(sinks=4, window=24)
    found |= {
        "infini": said(lambda: everlong.attach(model, INFINI)),
        "per_head": said(lambda: everlong.Session(model, everlong.Blocks(**SMALL, per_head=True))),
        "training": said(lambda: attach_training(model, INFINI)),
        "store": said(lambda: everlong.Session(model, BLOCKS, store=folder / "store")),
        "save": said(lambda: free.save(folder / "saved")),
        "question": said(lambda: everlong.Session(model, asking)),
        "temperature": said(lambda: free.generate(max_new_tokens=2, temperature=0.5)),
        "replicated": streams(loaded(folder, "normed", tp_size=2), "blocks"),
    }
    free.close()
    found["as it was"] = "forward" not in vars(model.model), model.config._attn_implementation
    return found


def refused(folder: Path) -> dict[str, Any]:
    """What is said of models of which a process holds parts that cannot run alone."""
    odd = loaded(folder, "odd", tp_size=2)
    found = {"odd": said(lambda: everlong.attach(odd, BLOCKS))}
    for name, model in {
        "pipeline": loaded(folder, pp_size=2),
        "fsdp config": loaded(folder, fsdp_size=2),
        "fsdp": fsdp(loaded(folder)),
        "fsdp1": FullyShardedDataParallel(loaded(folder), device_id=torch.device("cpu")),
        "ddp": DistributedDataParallel(loaded(folder)),
    }.items():
        found[name] = said(lambda model=model: everlong.attach(model, BLOCKS))
        found[f"{name} training"] = said(lambda model=model: attach_training(model, INFINI))
        found[f"{name} session"] = said(lambda model=model: everlong.Session(model, BLOCKS))
    return found


def fsdp(model: Any) -> Any:
    """The model with its layers and itself sharded."""
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def wrapped(folder: Path) -> dict[str, Any]:
    """Logits, and a training loss, of models that were attached first and wrapped then."""
    found: dict[str, Tensor] = {}
    wrappers: dict[str, Callable[[Any], Any]] = {
        "ddp": DistributedDataParallel,
        "fsdp": fsdp,
        "fsdp1": lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
    }
    for name, wrap in wrappers.items():
        model = loaded(folder)
        with everlong.attach(model, METHODS["sinks"]) as handle, torch.no_grad():
            found[f"{name} after"] = wrap(model)(IDS, past_key_values=handle.new_cache()).logits[0]
        model = loaded(folder)
        with attach_training(model, INFINI) as training:
            found[f"{name} trained"] = trained(wrap(model), training)
    return found


def trained(model: Any, training: Any) -> Tensor:
    """The loss of a forward, and the gradients of the gates where they are parameters of their own."""
    loss = model(input_ids=IDS, use_cache=False).logits.square().mean()
    loss.backward()
    gates = getattr(training.parameters, "beta", None)
    if gates is None or gates.grad is None:
        return loss.detach()[None]
    grad = gates.grad.full_tensor() if hasattr(gates.grad, "full_tensor") else gates.grad
    return torch.cat((loss.detach()[None], grad.flatten()))


RECIPE = {
    "method": {"name": "infini", "segment": 32, "beta": 0.0},
    "scratch": {
        "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 2, "max_position_embeddings": 512}
    },
    "stages": [{"steps": 2, "batch": 2, "length": 128, "data": {"passkey": {}}}],
    "held_out": 1,
    "log_every": 1,
}


def run_recipe(folder: Path, **more: Any) -> dict[str, Any]:
    """The result of a recipe that trains into the folder."""
    path = folder / f"recipe-{os.getpid()}.yaml"
    path.write_text(yaml.safe_dump(RECIPE | more))
    return train(read_recipe(path), folder / "run")


def over_fsdp(folder: Path, rank: int) -> dict[str, Any]:
    """The same recipe with its model sharded by FSDP, which accelerate does over GPUs only: it is told to."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    state: Any = AcceleratorState
    started = state.__init__

    def told(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        started(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin

    state.__init__ = told
    for kind in (state, Accelerator):
        kind.is_fsdp2 = True
    Accelerator.distributed_type = DistributedType.FSDP
    trainer.check_trainer = lambda *args, **kwargs: None
    return run_recipe(folder, trainer={"fsdp": True, "use_cpu": True})
