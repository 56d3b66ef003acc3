"""What the infinity-former keeps of a stream: coefficients B of a signal, of constant size whatever was read.

B is a function of what entered the layer in the segments that left the window (signal.py); the segment that
leaves is fitted as soon as the newest one is complete.

Letters: B rows, H query heads, G kv heads, T new tokens, L tokens per segment, P tokens of the past ("xl": L, else 0),
N Gaussians, R = L + P tokens that are remembered until their segment leaves, D, E head dims, W width of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.methods.infinity_former.signal import Density, Parameters, Signal
from everlong.methods.recurrent.core import RecurrentCall, State
from everlong.methods.recurrent.training import TrainCall, check_unweighted
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.infinity import kl
from everlong.ops.segments import NONE, last_known, owners, past, past_seen, segment_attention

NAME = "infinity_former"


@dataclass(frozen=True, eq=False)
class InfinityCore:
    """Reads B for each query, and fits each segment that leaves the window.

    `given[layer]` are the parameters, `dtype` is the model's. Not `reads`: the window alone (a control). What entered
    the layer lies at place % R, what was read from B (mu and var) at place % L: the newest tokens may be taken back.
    """

    segment: int
    back: int
    signal: Signal
    given: Mapping[int, Parameters]
    dtype: torch.dtype
    reads: bool = True
    name: str = NAME

    @property
    def compresses(self) -> bool:
        """Whether what leaves the window leaves something."""
        return self.reads

    @property
    def wants_hidden(self) -> bool:
        """For the signal."""
        return self.reads

    def check(self, plan: ModelLayout) -> None:
        """Keys and values of every layer are needed."""
        if any(p.key is None or p.value is None for p in plan.layers):
            raise CapabilityError(f"{self.name}: a layer of this model caches no keys; use the method sinks or blocks")

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """B, K and V in float32; hidden states of tokens in the window, densities of those of the open segment."""
        if not self.reads:
            return {}
        given, (G, D), (_, E) = self.given[layer.index], layer.key or (0, 0), layer.value or (0, 0)
        N = len(given["w_mu"])
        W = given["W_K"].shape[1]
        H = len(given["W_O"]) // E
        shapes = {"B": (N, W), "K": (G, N, D), "V": (G, N, E), "hidden": (self.segment + self.back, W)}
        if self.signal.sticky:
            shapes |= {"mu": (H, self.segment), "var": (H, self.segment)}
        wide = torch.promote_types(self.dtype, torch.float32)
        kinds = dict.fromkeys(shapes, wide) | {"hidden": self.dtype}
        return {n: torch.zeros(rows, *shape, dtype=kinds[n], device=device) for n, shape in shapes.items()}

    def attend(self, call: RecurrentCall, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """The window's output, and what B answers from the first token on that has something behind it."""
        local = call.local()
        if not self.reads or call.padding == local.shape[1]:
            return local, state
        assert call.hidden is not None
        state = dict(state) | {n: state[n].clone() for n in ("hidden", "mu", "var") if n in state}
        q = call.raw_q()
        found = [local[:, : call.padding]]
        for a, b in call.pieces(self.segment):
            new = slice(a - call.start, b - call.start)
            out = local[:, new]
            if a >= self.segment + self.back:
                out = out + self._read(call.plan, q[:, :, new], state, a).to(local.dtype)
            found.append(out)
            _put(state["hidden"], 1, a, call.hidden[:, new])
            if b % self.segment == 0 and b >= self.segment + self.back:
                self._fold(call.plan, state, b)
        return torch.cat(found, 1), state

    def _read(self, layer: LayerPlan, q: Tensor, state: State, place: int) -> Float[Tensor, "B T H E"]:
        """What the tokens from `place` on read; their densities are put into `state`."""
        out, density = self.signal.read(q, state["K"], state["V"], self.given[layer.index])
        for name, x in zip(("mu", "var"), density, strict=True):
            if name in state:
                _put(state[name], 2, place, x)
        return out

    def _fold(self, layer: LayerPlan, state: State, end: int) -> None:
        """Fit the segment that leaves when the one before `end` is complete."""
        given = self.given[layer.index]
        L = self.segment
        at = (end - L - self.back) % (L + self.back)
        hidden = state["hidden"][:, at : at + L]
        if end == L + self.back:
            state["B"] = self.signal.begun(hidden, given)
        else:
            density = (state["mu"], state["var"]) if self.signal.sticky else None
            state["B"] = self.signal.gone_on(state["B"], hidden, given, density)
        state["K"], state["V"] = self.signal.projected(state["B"], given, state["K"].shape[1])


@dataclass(frozen=True, eq=False)
class InfinityState:
    """B of `document` [B]; of the last P tokens keys, values, what entered the layer, and their documents `of`."""

    b: Float[Tensor, "B N W"]
    document: Int[Tensor, " B"]
    k: Float[Tensor, "B G P D"]
    v: Float[Tensor, "B G P E"]
    hidden: Float[Tensor, "B P W"]
    of: Int[Tensor, "B P"]

    @classmethod
    def empty(cls, call: TrainCall, hidden: Float[Tensor, "B NL W"], gaussians: int, tokens: int) -> InfinityState:
        """The state before the first token; P = `tokens`."""
        B = len(hidden)
        W = hidden.shape[2]
        none = torch.full((B,), NONE, dtype=torch.long, device=hidden.device)
        k, v = (x.new_zeros(*x.shape[:2], tokens, x.shape[3]) for x in (call.k, call.v))
        b = hidden.new_zeros(B, gaussians, W, dtype=torch.promote_types(hidden.dtype, torch.float32))
        return cls(b, none, k, v, hidden.new_zeros(B, tokens, W), none[:, None].expand(B, tokens))

    def norm(self) -> float:
        """Frobenius norm of B, the mean over rows."""
        return float(self.b.detach().flatten(1).norm(dim=1).mean())

    def detach(self) -> InfinityState:
        """The same numbers, through which no gradient flows."""
        return InfinityState(**{f.name: getattr(self, f.name).detach() for f in fields(self)})


@dataclass(frozen=True, eq=False)
class InfinityTraining:
    """Local attention of all segments at once, the signal segment by segment: sticky points need what was read before.

    As in the authors' code hidden states enter the signal detached, and so does the old signal: a loss reaches W_K,
    W_V, W_O, w_mu, w_var, and the convolution through the newest fit. `kl` weighs the regulariser.
    """

    segment: int
    back: int
    signal: Signal
    kl: float
    name: str = NAME
    wants_hidden: bool = True
    first_segment_is_stock: bool = True

    def train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], InfinityState]:
        """The attention of a layer, and what it carries on."""
        check_unweighted(call, self.name)
        assert call.hidden is not None
        hidden = call.hidden.detach()
        text = call.text
        P = self.back
        L = self.segment
        state = call.state or InfinityState.empty(call, hidden, len(self.signal.basis.centres), P)
        seen = past_seen(text.document, text.valid, state.of, L)
        before = past(call.k, state.k, L), past(call.v, state.v, L)
        local = segment_attention(call.q, call.k, call.v, *before, seen, call.scale)
        reading = _Reading(self, call, hidden, state)
        far = torch.cat([reading.segment(n) for n in range(text.document.shape[1])], 2)
        if reading.penalties:
            call.extra[call.plan.index] = self.kl * reading.penalty()
        k, v = (torch.cat([old, new], 2)[:, :, new.shape[2] :] for old, new in ((state.k, call.k), (state.v, call.v)))
        rest = reading.every[:, hidden.shape[1] :]
        of = owners(text.document, text.valid, state.of, L)
        return local + far.to(local.dtype), InfinityState(reading.b, reading.known[:, -1], k, v, rest, of)


class _Reading:
    """The signal of one layer under training, from segment to segment."""

    def __init__(self, core: InfinityTraining, call: TrainCall, hidden: Tensor, state: InfinityState) -> None:
        self.core = core
        self.call = call
        self.b = state.b
        self.every = torch.cat([state.hidden, hidden], 1)
        self.penalties: list[tuple[Tensor, Tensor]] = []
        of = call.text.document
        leaving = torch.cat([state.of[:, :1], of[:, :-1]], 1) if core.back else of
        self.known = last_known(torch.cat([state.document[:, None], leaving], 1))
        before = self.known[:, :-1]
        real = leaving != NONE
        self.held = (before == of) & (of != NONE)
        self.begins, self.goes_on = (before != leaving) & real, (before == leaving) & real
        kinds = torch.stack([self.held, self.begins, self.goes_on])
        self.any, self.all = torch.stack([kinds.any(1), kinds.all(1)]).tolist()

    def segment(self, n: int) -> Float[Tensor, "B H L E"]:
        """What segment `n` reads; then the segment that leaves is fitted."""
        L = self.core.segment
        text = self.call.text
        signal = self.core.signal
        given = self.call.parameters
        held = self.held[:, n]
        density = None
        q = self.call.raw_q[:, :, n * L : (n + 1) * L]
        out = self.call.v.new_zeros(*q.shape[:3], self.call.v.shape[3])
        if self.any[0][n]:
            k, v = signal.projected(self.b, given, self.call.k.shape[1])
            far, density = signal.read(q, k, v, given)
            out = torch.where(held[:, None, None, None], far.transpose(1, 2), 0)
            if self.core.kl:
                self.penalties.append(self._penalty(density, held[:, None] & text.valid[:, n * L : (n + 1) * L]))
        self._fold(n, density)
        return out

    def _fold(self, n: int, density: Density | None) -> None:
        """Fit the segment that leaves after segment `n`; rows in which none does stay as they are."""
        signal = self.core.signal
        given = self.call.parameters
        L = self.core.segment
        old = self.b
        hidden = self.every[:, n * L : (n + 1) * L]
        if self.any[1][n]:
            b = signal.begun(hidden, given)
            self.b = b if self.all[1][n] else torch.where(self.begins[:, n, None, None], b, self.b)
        if self.any[2][n]:
            b = signal.gone_on(old, hidden, given, density)
            self.b = b if self.all[2][n] else torch.where(self.goes_on[:, n, None, None], b, self.b)

    @staticmethod
    def _penalty(density: Density, reads: Bool[Tensor, "B L"]) -> tuple[Tensor, Tensor]:
        """Sum and number of what the tokens that read cost."""
        each = torch.where(reads[:, None], kl(*density), 0)
        return each.sum(), reads.sum() * each.shape[1]

    def penalty(self) -> Float[Tensor, ""]:
        """The mean over the tokens and heads that read."""
        sums, counts = (torch.stack(x).sum() for x in zip(*self.penalties, strict=True))
        return sums / counts.clamp_min(1)


def _put(x: Tensor, dim: int, place: int, new: Tensor) -> None:
    """Write `new` where `place` lies in a ring along `dim`; it does not go round the end."""
    size = x.shape[dim]
    x.narrow(dim, place % size, new.shape[dim]).copy_(new)
