"""What a session over a model whose weights are sharded over processes can do: every process reads the same stream."""

from __future__ import annotations

from typing import Any

from everlong.engine.sampling import Sampling
from everlong.errors import CapabilityError
from everlong.methods.base import Method
from everlong.methods.blocks.memory import RECALL_ON_RANKS
from everlong.models.sharding import check_not_sharded, is_sharded


def check_ranks(model: Any, method: Method, stored: bool) -> None:
    """CapabilityError for what a session over a sharded model cannot do."""
    if not is_sharded(model):
        return
    if stored:
        check_not_sharded(
            model, "store", "each of which would keep other parts of one session; leave store out, or load it whole"
        )
    if method.as_dict().get("recall") == "question":
        raise CapabilityError(RECALL_ON_RANKS)


def check_draw(model: Any, sampling: Sampling) -> None:
    """CapabilityError where each rank would draw other tokens."""
    if sampling.temperature and sampling.seed is None:
        check_not_sharded(
            model, f"temperature={sampling.temperature}", "each of which would draw other tokens; give a seed"
        )
