"""Which of transformers' TrainingArguments a recipe may give as `trainer`: those that have an effect on its run."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

from transformers import TrainingArguments

from everlong.errors import ConfigError

TAKEN = frozenset(
    {
        "activation_checkpointing_kwargs",
        "bf16",
        "dataloader_num_workers",
        "debug",
        "deepspeed",
        "enable_jit_checkpoint",
        "fp16",
        "full_determinism",
        "gradient_checkpointing_kwargs",
        "ignore_data_skip",
        "neftune_noise_alpha",
        "push_to_hub",
        "restore_callback_states_from_checkpoint",
        "tf32",
        "use_cpu",
    }
)
TAKEN_KINDS = ("ddp_", "fsdp", "hub_", "liger_kernel", "log_", "logging_", "save_", "torch_compile", "use_liger")
"""How the names of further ones begin."""
INSTEAD = {
    "gradient_accumulation_steps": "use rows_at_once for less memory",
    "gradient_checkpointing": "use checkpointing",
    "activation_checkpointing": "use checkpointing",
    "learning_rate": "use optimiser.lr",
    "weight_decay": "use optimiser.weight_decay",
    "adam_beta2": "use optimiser.beta2",
    "warmup_steps": "use optimiser.warmup_steps",
    "lr_scheduler_type": "use optimiser.decay",
    "num_train_epochs": "use the stages' steps",
    "data_seed": "use seed",
    "resume_from_checkpoint": "use --resume",
}
"""What to use in place of settings that the recipe's own fields make."""
NEEDS = {
    "activation_checkpointing_kwargs": "activation_checkpointing",
    "fsdp_config": "fsdp",
    "gradient_checkpointing_kwargs": "gradient_checkpointing",
    "hub_model_id": "push_to_hub",
    "hub_private_repo": "push_to_hub",
    "hub_revision": "push_to_hub",
    "hub_strategy": "push_to_hub",
    "liger_kernel_config": "use_liger_kernel",
    "torch_compile_backend": "torch_compile",
    "torch_compile_mode": "torch_compile",
}
"""Settings of others, which do nothing without them."""
LAUNCH = "start the run with `accelerate launch --num_processes N -m everlong train ...` or torchrun"


def check_trainer(trainer: dict[str, Any], own: dict[str, Any], processes: int, cpu: bool) -> None:
    """ConfigError for a setting that the recipe's `own` fields make, or that does nothing here."""
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    for name, value in trainer.items():
        if name in own or name in INSTEAD:
            raise ConfigError(
                f"trainer.{name}: is set by the recipe's own fields; {INSTEAD.get(name, 'remove it there')}"
            )
        if name in known - TAKEN and not name.startswith(TAKEN_KINDS):
            raise ConfigError(f"trainer.{name}={value}: has no effect on a recipe's training; leave it out")
        if (other := NEEDS.get(name)) is not None and not (own | trainer).get(other):
            hint = "checkpointing" if "checkpointing" in other else f"trainer.{other}"
            raise ConfigError(f"trainer.{name}={value}: has no effect without {hint}; add it, or leave this out")
        if value and name.startswith(("fsdp", "ddp_")):
            _check_processes(name, value, processes, cpu)
    if trainer.get("fp16") and cpu:
        raise ConfigError("trainer.fp16=True: has no effect on a CPU; use bf16, or leave it out")
    if trainer.get("use_liger_kernel") and importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError("trainer.use_liger_kernel=True: liger-kernel is not installed; pip install liger-kernel")


def _check_processes(name: str, value: Any, processes: int, cpu: bool) -> None:
    if processes == 1:
        raise ConfigError(f"trainer.{name}={value}: has no effect in one process; {LAUNCH}, or leave it out")
    if cpu and name.startswith("fsdp"):
        raise ConfigError(
            f"trainer.{name}={value}: has no effect on CPUs, where each of the {processes} processes holds the whole "
            "model; leave it out, or train on GPUs"
        )
