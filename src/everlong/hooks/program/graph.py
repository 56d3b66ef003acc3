"""A decoder's forward for one token of each of some streams as a CUDA graph: one launch instead of hundreds.

The decoder's own forward is captured, whatever its family, with its attentions by tables (ops/gpu/token_attention.py),
so that the same graph serves every token whose attentions are known before it (`ForwardPlan.knows_token`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from everlong.cache.absent_layer import AbsentLayer
from everlong.cache.packed import PackedCache, PackedPlan
from everlong.cache.step import ForwardPlan
from everlong.errors import one_line
from everlong.hooks.current_step import activate
from everlong.hooks.program.make import CHECKED, Recording, begun, check_near, read, stream_to_record, tokens_to_record
from everlong.hooks.program.record import NotRecorded
from everlong.models.layout import ModelLayout
from everlong.ops.gpu.token_attention import MOST_DIM, DeviceTables, attend_by_tables, fits
from everlong.ops.token_tables import TokenTables

WARM_UPS = 2
"""Forwards before the one that is captured: kernels are compiled and libraries make their workspaces."""
SPARE_RANGES = 2
"""Ranges that a graph has room for beyond those of the token that it was captured at."""


class TablePlan(PackedPlan):
    """One token of each of `steps`, whose writes and attentions are done by tables on the GPU."""

    def __init__(self, steps: Sequence[ForwardPlan], layers: Sequence[int], tables: DeviceTables) -> None:
        super().__init__(steps)
        self._numbers = {layer: n for n, layer in enumerate(layers)}
        self._tables = tables
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The new keys and values alone: attention finds the others by its tables."""
        self._pairs[layer] = k, v
        self._new[layer] = k
        return k, v

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> Tensor:
        """Attention output of a layer; NotRecorded where it attends to other keys than those that it just cached."""
        written = self._pairs.get(layer)
        if written is None or written[0] is not k or written[1] is not v:
            raise NotRecorded(f"layer {layer} attends to other keys than those that it caches")
        if not (q.shape[3] == k.shape[3] == v.shape[3] <= MOST_DIM):
            raise NotRecorded(f"layer {layer}: keys and values are not alike, or of more than {MOST_DIM} numbers")
        return attend_by_tables(self._tables, self._numbers[layer], q, k, v, scale, softcap, s_aux)


class _TableCache(PackedCache):
    """What transformers sees of a TablePlan."""

    def __init__(self, plan: TablePlan, depth: int) -> None:
        Cache.__init__(self, layers=[AbsentLayer() for _ in range(depth)])
        self._step = plan


class Captured(NamedTuple):
    """A graph's inputs, and `replay`, which gives the last hidden state; it is overwritten by the next one."""

    ids: Tensor
    positions: Tensor
    tables: DeviceTables
    replay: Callable[[], Tensor]


class Graphs:
    """The graphs of one decoder, by the number of streams, ranges and moves; they do not keep it alive."""

    def __init__(self, plan: ModelLayout, dtype: torch.dtype, answer: type[Any]) -> None:
        self.answer = answer
        """The class of what the decoder's forward gives."""
        self.dtype = dtype
        self.layers = [p.index for p in plan.layers]
        self.depth = plan.depth
        self.dim = max((p.key[1] for p in plan.layers if p.key is not None), default=0)
        self.captured: dict[tuple[int, int, int], Captured] = {}
        self.reason: str | None = None
        """Why no graph could be captured; the decoder then runs by its modules."""


class GraphProgram:
    """Runs a decoder's graphs, and captures those that are not there yet."""

    def __init__(self, graphs: Graphs, model: Recording) -> None:
        self.answer = graphs.answer
        self._graphs = graphs
        self._model = model
        self._layers = graphs.layers

    def run(self, steps: Sequence[ForwardPlan], inputs: Sequence[list[Tensor]]) -> Tensor | None:
        """The last hidden states [1, rows, width] of one token of each step.

        None, with nothing done, where what a token attends to follows from the token.
        """
        graphs = self._graphs
        if graphs.reason or not all(s.knows_token(self._layers) and s.dtype == graphs.dtype for s in steps):
            return None
        tables = [table for step in steps if (table := step.token_tables(self._layers)) is not None]
        if not all(map(fits, tables)) or any(own[1].ndim != 2 for own in inputs):
            return None
        ids = torch.cat([own[0] for own in inputs], 1)
        places = torch.cat([own[1] for own in inputs], 1)
        with torch.cuda.device_of(ids), torch.inference_mode(False), torch.no_grad():
            try:
                captured = self._for(steps, tables, ids)
            except NotRecorded as error:
                graphs.reason = str(error)
                return None
            captured.tables.upload(tables)
            captured.ids.copy_(ids)
            captured.positions.copy_(places)
            return captured.replay().clone()

    def _for(self, steps: Sequence[ForwardPlan], tables: Sequence[TokenTables], ids: Tensor) -> Captured:
        """A graph with room for these tables."""
        ranges = max(table.ranges.shape[1] for table in tables)
        moves = max(table.moves.shape[1] for table in tables)
        for (rows, most, moved), captured in self._graphs.captured.items():
            if rows == len(steps) and most >= ranges and moved == moves:
                return captured
        key = len(steps), ranges + SPARE_RANGES, moves
        room = DeviceTables(len(self._layers), *key, self._graphs.dim, ids.device)
        positions = torch.zeros(1, len(steps), dtype=torch.int64, device=ids.device)
        room.upload(tables)
        found = self._capture(steps, Captured(ids.clone(), positions, room, lambda: ids))
        with torch.inference_mode():
            for x in (x for table in tables for x in table.shares):
                x.zero_()  # each of the forwards until now has added to them
        self._graphs.captured[key] = found
        return found

    def _capture(self, steps: Sequence[ForwardPlan], given: Captured) -> Captured:
        def once() -> Tensor:
            return self._once(steps, given)

        if given.ids.device.type != "cuda":  # Triton's interpreter, in tests
            return given._replace(replay=once)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                once()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                hidden = once()
        except RuntimeError as error:  # experts that are chosen on the processor, say
            raise NotRecorded(f"a CUDA graph cannot hold it ({one_line(error)})") from error

        def replay() -> Tensor:
            graph.replay()
            return hidden

        return given._replace(replay=replay)

    def _once(self, steps: Sequence[ForwardPlan], given: Captured) -> Tensor:
        """The decoder's forward with its attentions by tables."""
        plan = TablePlan(steps, self._layers, given.tables)
        cache = _TableCache(plan, self._graphs.depth)
        activate(plan)
        try:
            with self._model.route.entered(plan):
                out = self._model.forward(
                    input_ids=given.ids,
                    position_ids=given.positions,
                    attention_mask=None,
                    past_key_values=cache,
                    use_cache=True,
                )
        finally:
            activate(None)
        hidden: Tensor = out.last_hidden_state
        return hidden


@torch.inference_mode()
def make_graphs(model: Recording) -> Graphs:
    """The graphs of a decoder on a GPU; NotRecorded where it has none, or they give other numbers."""
    stream = stream_to_record(model)
    before, ids = tokens_to_record(model)
    _, out = read(model, stream, before)
    hidden = getattr(out, "last_hidden_state", None)
    if hidden is None:
        raise NotRecorded("it gives other than a hidden state")
    graphs = Graphs(model.plan, hidden.dtype, type(out))
    program = GraphProgram(graphs, model)
    for token in ids[:CHECKED]:
        twin = stream.fork()
        step, inputs = begun(twin, token[None])
        got = program.run([step], [inputs])
        if got is None:
            raise NotRecorded(graphs.reason or "what a token attends to follows from the token")
        check_near(got, read(model, stream, token[None])[1].last_hidden_state)
    return graphs
