"""transformers' Trainer for memories: stages, weighted losses, gates in a group of their own, truncated gradients.

All that is the ecosystem's stays so: devices, processes (`accelerate launch`), mixed precision, FSDP, checkpoints and
resuming. A checkpoint holds the model and its memory in one file, because it is only ever read back by this trainer.

Letters: B rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from everlong.errors import ConfigError, one_line
from everlong.hooks.training import Training
from everlong.methods.recurrent.parameters import NAME
from everlong.methods.recurrent.training import Carried
from everlong.models.sharding import whole
from everlong.train.data.sample import collate
from everlong.train.recipe import GATES, WRITES, Recipe, Stage
from everlong.train.rows import Batches, Rows
from everlong.train.trainer_settings import check_trainer


def arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """What the recipe says in transformers' words."""
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": recipe.steps,
        "per_device_train_batch_size": 1,
        "save_steps": recipe.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": recipe.log_every,
        "logging_nan_inf_filter": False,
        "seed": recipe.seed,
        "max_grad_norm": recipe.optimiser.max_grad_norm,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "accelerator_config": {"even_batches": False},
    }
    if recipe.checkpointing:
        names = {f.name for f in dataclasses.fields(TrainingArguments)}
        own["activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"] = True
    given = dict(recipe.trainer)
    gpus = torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    check_trainer(given, own, processes, cpu=bool(given.get("use_cpu")) or not gpus)
    own["use_cpu"] = not gpus
    try:
        return TrainingArguments(**(own | given))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"trainer: {one_line(error)}; see transformers' TrainingArguments") from None


def check_plan(recipe: Recipe, found: TrainingArguments) -> None:
    """ConfigError where the processes that train together cannot share every batch evenly."""
    for n, stage in enumerate(recipe.stages, 1):
        if stage.batch % found.world_size:
            raise ConfigError(f"batch={stage.batch}: stage {n} cannot be shared by {found.world_size} processes evenly")


class MemoryTrainer(Trainer):
    """Trains the model that `training` holds by `recipe`; `tell` gets a mapping of metrics at each logging step."""

    def __init__(
        self, recipe: Recipe, model: Any, training: Training, tokenizer: Any, folder: Path, tell: Callable[[dict], None]
    ) -> None:
        self.recipe = recipe
        self.memory = training
        self.tell = tell
        self._tokens, self._norms = 0, list[float]()
        super().__init__(model, arguments(recipe, folder), collate, Rows(recipe, tokenizer))

    def get_train_dataloader(self) -> DataLoader:
        """The rows of all stages in their order."""
        batches = Batches(self.recipe, self.args.world_size)
        workers = self.args.dataloader_num_workers
        rows: Any = self.train_dataset
        loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate, num_workers=workers)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over four groups: gates, strengths of writing with a rate of their own, what is decayed, and the rest.

        ConfigError for a rate of strengths of writing where there are none.
        """
        if self.optimizer is None:
            trained: Any = model or self.model
            how = self.recipe.optimiser
            decayed = set(self.get_decay_parameter_names(trained))
            groups: dict[str, list[Tensor]] = {"decayed": [], "rest": [], "gates": [], "writes": []}
            for name, x in trained.named_parameters():
                if x.requires_grad:
                    groups[_group(name, decayed, how.write_lr is not None)].append(x)
            if how.write_lr is not None and not groups["writes"]:
                name = self.recipe.method["name"]
                raise ConfigError(
                    f"write_lr={how.write_lr}: {name} has no strengths of writing (delta has); leave it out"
                )
            settings = {"gates": (how.gate_lr, 0.0), "decayed": (how.lr, how.weight_decay), "rest": (how.lr, 0.0)}
            settings["writes"] = (how.write_lr or how.lr, 0.0)
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": found, "lr": settings[name][0], "weight_decay": settings[name][1]}
                    for name, found in groups.items()
                    if found
                ],
                betas=(0.9, how.beta2),
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The recipe's schedule, times the stage's own factor."""
        if self.lr_scheduler is None:
            recipe = self.recipe
            scaled = optimizer or self.optimizer
            assert scaled is not None

            def factor(step: int) -> float:
                return recipe.optimiser.factor(step, recipe.steps) * recipe.stage_at(step)[1].lr

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(scaled, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """One step on a batch: the weighted mean loss, its gradients added part by part and piece by piece."""
        model.train()
        stage = self.recipe.stage_at(self.state.global_step)[1]
        self.memory.use(self.recipe.method_of(stage))
        inputs = self._prepare_inputs(inputs)
        self._tokens += int((inputs["document"] >= 0).sum()) * self.args.world_size
        total = torch.zeros((), device=inputs["ids"].device)
        scale = inputs["loss_weight"].sum().clamp_min(1e-9)
        size = self.recipe.rows_at_once or len(inputs["ids"])
        parts = [{name: x[a : a + size] for name, x in inputs.items()} for a in range(0, len(inputs["ids"]), size)]
        left = count = sum(1 for part in parts for _ in self._pieces(part, stage))
        for part in parts:
            carried = Carried()
            alone = count == len(parts)
            for piece in self._pieces(part, stage):
                left -= 1
                with self.accelerator.no_sync(model) if left else nullcontext(), self.compute_loss_context_manager():
                    loss = weighted_loss(model, piece, None if alone else carried) / scale
                    if (more := self.memory.extra_loss()) is not None:
                        loss = loss + more / count
                    self.accelerator.backward(loss)
                carried.detach()
                total += loss.detach()
        self._norms = self.memory.norms()
        return total

    def _pieces(self, inputs: dict[str, Tensor], stage: Stage) -> Iterator[dict[str, Tensor]]:
        """The batch cut behind every `bptt_segments` segments; each piece knows the token that follows it."""
        T = inputs["ids"].shape[1]
        segment = self.memory.method.as_dict()["segment"]
        size = T if stage.bptt_segments is None else stage.bptt_segments * segment
        following = {name: torch.nn.functional.pad(inputs[name][:, 1:], (0, 1)) for name in ("ids", "loss_weight")}
        for a in range(0, T, size):
            cut = {name: x[:, a : a + size] for name, x in inputs.items()}
            yield cut | {f"next_{name}": x[:, a : a + size] for name, x in following.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's own log, and a line of metrics."""
        super().log(logs, start_time)
        if "loss" in logs:
            tokens = self._tokens
            self._tokens = 0
            gates = {n: getattr(self.memory.parameters, n) for n in GATES if hasattr(self.memory.parameters, n)}
            self.tell(
                {
                    "step": self.state.global_step,
                    "loss": logs["loss"],
                    "learning_rate": logs.get("learning_rate"),
                    "grad_norm": logs.get("grad_norm"),
                    "tokens": tokens,
                    "memory_norm": self._norms,
                    **{name: whole(x).float().sigmoid().tolist() for name, x in gates.items()},
                }
            )


def weighted_loss(model: Any, piece: dict[str, Tensor], carried: Carried | None = None) -> Tensor:
    """Sum of -log p (nats) of the tokens that follow, each times its weight."""
    more = {} if carried is None else {"carried": carried}
    logits = model(
        input_ids=piece["ids"], documents=piece["document"], write_weight=piece["write_weight"], use_cache=False, **more
    ).logits
    nll = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), piece["next_ids"].flatten(), reduction="none")
    return (nll * piece["next_loss_weight"].flatten()).sum()


def _group(name: str, decayed: set[str], writes: bool) -> str:
    """Which group of the optimiser a parameter is in; `writes`: strengths of writing are one."""
    parts = name.split(".")
    if NAME in parts and writes and parts[-1] in WRITES:
        return "writes"
    if NAME in parts:
        return "gates" if parts[-1] in GATES else "decayed" if name in decayed else "rest"
    return "decayed" if name in decayed else "rest"
