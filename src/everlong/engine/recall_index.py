"""The recall index of a session: of the retrieval heads that are known of its model, or as it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everlong.methods.base import Method
from everlong.methods.blocks.memory import BlockMemory, MakeRecall
from everlong.methods.blocks.recall.files import RecallFiles
from everlong.methods.blocks.recall.index import KeyPair, RecallIndex, key_pairs
from everlong.models.retrieval_heads import find


def index_maker(model: Any, method: Method, files: RecallFiles | None) -> MakeRecall:
    """What makes the index of a new row; its rows go to `files`, where the session is kept."""

    def make(memory: BlockMemory, pairs: Sequence[KeyPair] | None) -> RecallIndex | None:
        wanted = _pairs(model, method, memory) if pairs is None else list(pairs)
        return RecallIndex(wanted, memory.settings.block, files) if wanted else None

    return make


def _pairs(model: Any, method: Method, memory: BlockMemory) -> list[KeyPair]:
    """The pairs of the model's calibrated heads; none for a model that has none, or a method that asks for none."""
    fields = method.as_dict()
    if fields.get("recall") != "question" or (heads := find(model)) is None:
        return []
    keys = {p.index: p.key for p in memory.plan.layers if p.index in memory.layers and p.key is not None}
    chosen = heads.best(min(fields["recall_heads"], len(heads.heads))).heads
    return key_pairs(chosen, memory.plan.heads, keys)
