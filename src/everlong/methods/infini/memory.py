"""What Infini-attention keeps of a stream: M and z of each layer, of constant size whatever was read.

Equations: ops/infini.py. Letters: B rows, H query heads, G kv heads, T new tokens, N segments that they touch, L tokens
per segment, D, E head dims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from everlong.errors import CapabilityError
from everlong.methods.recurrent.core import RecurrentCall, State
from everlong.methods.recurrent.training import TrainCall
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.compressive import Update, fold_all, recall
from everlong.ops.infini import InfiniState, infini_attention


@dataclass(frozen=True, eq=False)
class InfiniTraining:
    """The parallel form of whole rows (ops/infini.py)."""

    segment: int
    back: int
    update: Update
    name: str = "infini"
    wants_hidden: bool = False
    first_segment_is_stock: bool = True

    def train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], InfiniState]:
        """Local attention, memory and gate of one layer."""
        state = call.state if call.state is not None else InfiniState.empty(call.k, call.v, self.back)
        gate = call.parameters["beta"].sigmoid()
        at = call.q, call.k, call.v, call.raw_q, call.raw_k
        return infini_attention(*at, gate, call.text, call.scale, self.update, state, call.write)


@dataclass(frozen=True, eq=False)
class InfiniCore:
    """Reads M and z for each query, and folds each segment that leaves the window.

    `gate(layer)` [H] is the share of what is read. Not `reads`: the window alone (a control). `zeroed`: reads find
    zeros, weighed as usual (another). `reset`: emptied before the segments that begin every so many tokens (a third).
    """

    segment: int
    back: int
    update: Update
    gate: Callable[[int], Tensor]
    dtype: torch.dtype = torch.float32
    reads: bool = True
    zeroed: bool = False
    reset: int | None = None
    name: str = "infini"
    wants_hidden: bool = False

    @property
    def compresses(self) -> bool:
        """Whether what leaves the window leaves something."""
        return self.reads

    def check(self, plan: ModelLayout) -> None:
        """Keys and values of every layer are needed."""
        if any(p.key is None or p.value is None for p in plan.layers):
            raise CapabilityError("infini: a layer of this model caches no keys; use the method sinks or blocks")

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """M [B, G, D, E] and z [B, G, D], in float32 (float64 for a model of that type)."""
        (G, D), (_, E) = layer.key or (0, 0), layer.value or (0, 0)
        M = torch.zeros(rows, G, D, E, dtype=self.dtype, device=device)
        return {"M": M, "z": M.new_zeros(rows, G, D)}

    def attend(self, call: RecurrentCall, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """The window's output, mixed with what M answers from the first token on that has something behind it."""
        local = call.local()
        start = max(0, call.start)
        T = local.shape[1]
        end = call.start + T
        if not self.reads or end <= 0:
            return local, state
        first = self._folds(start)
        last = self._folds(end)
        Ms, zs = self._folded(call, state, first, last)
        known = max(self.segment + self.back, call.start)
        if known < end:
            mixed = self._mixed(call, local[:, known - call.start :], known, Ms, zs, first)
            local = mixed if known == call.start else torch.cat([local[:, : known - call.start], mixed], 1)
        return local, {"M": Ms[:, :, -1], "z": zs[:, :, -1]}

    def _folds(self, place: int) -> int:
        """How many segments are folded before the token at `place` is read."""
        return max(0, (place - self.back) // self.segment)

    def _folded(self, call: RecurrentCall, state: State, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The memories after `first` .. `last` segments: [B, G, N + 1, D, E] and [B, G, N + 1, D]."""
        if first == last:
            return state["M"][:, :, None], state["z"][:, :, None]
        L = self.segment
        k = call.raw_k(first * L, last * L)
        v = call.values(first * L, last * L)
        k, v = (x.unflatten(2, (last - first, L)) for x in (k, v))
        restart = None
        if self.reset is not None:
            restart = (torch.arange(first * L, last * L, L, device=k.device) % self.reset == 0).expand(len(k), -1)
        return fold_all(k, v, state["M"], state["z"], self.update, restart=restart)

    def _mixed(self, call: RecurrentCall, local: Tensor, known: int, Ms: Tensor, zs: Tensor, first: int) -> Tensor:
        """The new tokens from place `known` on: equation 10."""
        q = call.raw_q()[:, :, known - call.start :]
        T = q.shape[2]
        L = self.segment
        n = known // self.segment
        N = (known + T - 1) // L - n + 1
        at = self._folds(known) - first
        if N == 1:
            far = recall(q, Ms[:, :, at], zs[:, :, at])
        else:
            lead = known - n * L
            whole = nn.functional.pad(q, (0, 0, lead, N * L - lead - T))
            memories, sums = (x[:, :, at : at + N].transpose(1, 2) for x in (Ms, zs))
            far = recall(whole.unflatten(2, (N, L)).transpose(1, 2), memories, sums)
            far = far.transpose(1, 2).flatten(2, 3)[:, :, lead : lead + T]
        g = self.gate(call.plan.index).to(local.dtype)[:, None]
        far = torch.zeros_like(local) if self.zeroed else far.transpose(1, 2).to(local.dtype)
        return torch.lerp(local, far, g)
