"""The recall index of a session: of the retrieval heads that are known of its model, or as it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everlong.methods.base import Method
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.layout import served_layers
from everlong.methods.blocks.recall.files import RecallFiles
from everlong.methods.blocks.recall.index import KeyPair, MakeRecall, RecallIndex, key_pairs
from everlong.models.layout import ModelLayout
from everlong.models.retrieval_heads import find


def index_maker(model: Any, method: Method, files: RecallFiles | None) -> MakeRecall:
    """What makes the index of a new row; its rows go to `files`, where the session is kept."""

    def make(settings: BlockSettings, plan: ModelLayout, pairs: Sequence[KeyPair] | None) -> RecallIndex | None:
        wanted = _pairs(model, method, plan) if pairs is None else list(pairs)
        return RecallIndex(wanted, settings.block, files) if wanted else None

    return make


def _pairs(model: Any, method: Method, plan: ModelLayout) -> list[KeyPair]:
    """The pairs of the model's calibrated heads; none for a model that has none, or a method that asks for none."""
    fields = method.as_dict()
    if fields.get("recall") != "question" or (heads := find(model)) is None:
        return []
    keys = {p.index: p.compared[0] for p in plan.layers if p.index in served_layers(plan) and p.key is not None}
    chosen = heads.best(min(fields["recall_heads"], len(heads.heads))).heads
    return key_pairs(chosen, plan.heads, keys)
