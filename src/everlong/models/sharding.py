"""Models that are spread over the processes of a torch.distributed group: which parts of one this process holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor, nn

from everlong.errors import AttachError, CapabilityError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

FIRST = "attach the model itself first, then wrap or shard it"


def distributed() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def shards(module: nn.Module) -> Iterator[tuple[DTensor, int]]:
    """Parameters of which each rank holds a part, with the dimension of their mesh over which they are shared out."""
    if not distributed():
        return
    from torch.distributed.tensor import DTensor

    for weight in module.parameters():
        if isinstance(weight, DTensor):
            for dim, placement in enumerate(weight.placements):
                if not placement.is_replicate() and weight.device_mesh.size(dim) > 1:
                    yield weight, dim


def is_sharded(model: nn.Module) -> bool:
    """Whether no process holds the whole model."""
    return any(True for _ in shards(model))


def whole(weight: Tensor) -> Tensor:
    """All of a parameter, without gradients; of one that is sharded every rank has to ask."""
    found: Any = weight.detach()
    return found.full_tensor() if hasattr(found, "full_tensor") else found


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a model that is sharded, on the CPU of the first rank; every rank has to ask."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    found: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return found


def check_not_sharded(model: nn.Module, what: str, instead: str) -> None:
    """CapabilityError, naming `what` was asked for, for a model that is shared out to ranks."""
    if is_sharded(model):
        raise CapabilityError(f"{what}: the model is sharded over ranks, {instead}")


def check_complete(model: Any, name: str) -> None:
    """AttachError, for `name`, where something wraps a model (DistributedDataParallel), and for a pipeline's stage."""
    from transformers import PreTrainedModel

    if hasattr(model, "_pp_stage"):
        raise AttachError(
            f"{name}: {type(model).__name__} is one stage of a pipeline (pp_size), whose other layers are in other "
            "processes; load it whole, or over ranks by tensor parallelism (tp_size)"
        )
    if isinstance(model, PreTrainedModel):
        return
    for attribute in ("module", "_orig_mod"):
        if isinstance(inner := getattr(model, attribute, None), nn.Module):
            raise AttachError(
                f"{name}: got {type(model).__name__}, which wraps {type(inner).__name__}; {FIRST} (it is "
                f"model.{attribute})"
            )


def check_not_wrapped_inside(model: nn.Module, name: str) -> None:
    """AttachError, for `name`, where modules of a model are wrapped already (FSDP, DistributedDataParallel)."""
    if not distributed():
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    for module in model.modules():
        if isinstance(module, FSDPModule | FullyShardedDataParallel):
            raise AttachError(
                f"{name}: {type(module).__name__} was sharded by FSDP, so that its weights are not there between "
                f"forwards; {FIRST}; `everlong train` does so (trainer: fsdp), and a model that is only read is "
                "sharded by tensor parallelism (tp_size)"
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise AttachError(f"{name}: {type(model).__name__} has a DistributedDataParallel inside; {FIRST}")
