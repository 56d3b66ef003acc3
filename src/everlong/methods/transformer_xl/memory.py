"""What Transformer-XL sees of a stream: the last tokens before a segment, through a stop-gradient.

Nothing is kept beyond the window, so both cores of a stream have no state. `Relative*` are the faithful form, with
scores by content and by distance (ops/relative.py); the others attend as the model does.

Letters: B rows, H query heads, G kv heads, N segments, L tokens per segment, P tokens of the past (mem_len), T new
tokens, S columns, D, E head dims, W width of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.methods.recurrent.core import RecurrentCall, State
from everlong.methods.recurrent.training import TrainCall, check_unweighted
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.relative import first_seen, relative_attention, sinusoids
from everlong.ops.segments import NONE, owners, past, past_seen, segment_attention

NAME = "transformer_xl"
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""Relative error of un-rotated keys, up to which they count as projections of what entered the layer."""


@dataclass(frozen=True, eq=False)
class WindowCore:
    """Attention to the `back` tokens before a segment and to the segment, at their true distances."""

    segment: int
    back: int
    name: str = NAME
    compresses: bool = False
    wants_hidden: bool = False

    def check(self, plan: ModelLayout) -> None:
        """Every model that has segments at all is served."""

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """Nothing."""
        return {}

    def attend(self, call: RecurrentCall, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """The window's attention."""
        return call.local(), state


@dataclass(frozen=True, eq=False)
class RelativeCore:
    """The same tokens, by relative attention over raw keys.

    At most `length` tokens are read at once: a segment. With `keys` a token sees no more than so many, and the window
    moves token by token (`segment` is 1). `u`, `w` [H, D]; `relative[layer]` [length + back, G, D] are relative keys.
    """

    segment: int
    back: int
    length: int
    keys: int | None
    u: Tensor
    w: Tensor
    relative: Mapping[int, Tensor]
    name: str = NAME
    compresses: bool = False
    wants_hidden: bool = False

    def check(self, plan: ModelLayout) -> None:
        """What cannot be trained so has no parameters for it."""

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """Nothing."""
        return {}

    def attend(self, call: RecurrentCall, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """Relative attention, segment by segment; nothing for padding."""
        q = call.raw_q()
        blind = q.new_zeros(*q.shape[:2], call.padding, call.v.shape[3])
        found = [self._piece(call, q[:, :, a - call.start : b - call.start], a, b) for a, b in call.pieces(self.length)]
        return torch.cat([blind, *found], 2).transpose(1, 2), state

    def _piece(self, call: RecurrentCall, q: Tensor, a: int, b: int) -> Float[Tensor, "B H T E"]:
        """The tokens `a` .. `b - 1`, all of one segment."""
        first = max(0, a - a % self.segment - self.back)
        r = self.relative[call.plan.index][: b - first].to(q.dtype)
        seen = first_seen(b - a, a - first, self.keys, q.device)
        return relative_attention(q, call.raw_k(first, b), call.values(first, b), r, self.u, self.w, seen, call.scale)


@dataclass(frozen=True, eq=False)
class WindowState:
    """Rotated keys and values of the last P tokens, and their documents [B, P]."""

    k: Float[Tensor, "B G P D"]
    v: Float[Tensor, "B G P E"]
    of: Int[Tensor, "B P"]

    @classmethod
    def empty(cls, k: Tensor, v: Tensor, tokens: int) -> WindowState:
        """The state before the first token, for keys like `k` and values like `v`; P = `tokens`."""
        past_k, past_v = (x.new_zeros(*x.shape[:2], tokens, x.shape[3]) for x in (k, v))
        return cls(past_k, past_v, _none(k, tokens))

    def norm(self) -> float:
        """Frobenius norm of the values, the mean over rows."""
        return float(self.v.flatten(1).norm(dim=1).mean())

    def detach(self) -> WindowState:
        """Itself: no gradient flows through it."""
        return self


@dataclass(frozen=True, eq=False)
class WindowTraining:
    """All segments of a layer at once; the past is detached."""

    segment: int
    back: int
    keys: int | None
    name: str = NAME
    wants_hidden: bool = False
    first_segment_is_stock: bool = True

    def train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], WindowState]:
        """The attention of a layer, and the tokens that the next piece sees."""
        check_unweighted(call, self.name)
        text = call.text
        P = self.back
        L = self.segment
        k = call.k.detach()
        v = call.v.detach()
        state = call.state or WindowState.empty(k, v, P)
        seen = past_seen(text.document, text.valid, state.of, L)
        before = past(k, state.k, L), past(v, state.v, L)
        out = segment_attention(call.q, call.k, call.v, *before, seen, call.scale, self.keys)
        k, v = (torch.cat([old, new], 2)[:, :, new.shape[2] :] for old, new in ((state.k, k), (state.v, v)))
        return out, WindowState(k, v, owners(text.document, text.valid, state.of, L))


@dataclass(frozen=True, eq=False)
class HiddenState:
    """What entered the layer for the last P tokens, and their documents [B, P]."""

    hidden: Float[Tensor, "B P W"]
    of: Int[Tensor, "B P"]

    @classmethod
    def empty(cls, hidden: Tensor, tokens: int) -> HiddenState:
        """The state before the first token, for inputs like `hidden`; P = `tokens`."""
        return cls(hidden.new_zeros(len(hidden), tokens, hidden.shape[2]), _none(hidden, tokens))

    def norm(self) -> float:
        """Frobenius norm, the mean over rows."""
        return float(self.hidden.flatten(1).norm(dim=1).mean())

    def detach(self) -> HiddenState:
        """Itself: no gradient flows through it."""
        return self


@dataclass(frozen=True, eq=False)
class RelativeTraining:
    """All segments of a layer at once, by relative attention.

    The memory is detached hidden states; their keys and values are projected anew, so that the projections learn from
    what is read there (section 3.2 of the paper: SG is around h, not around W h).
    """

    segment: int
    back: int
    keys: int | None
    clamp: int | None
    name: str = NAME
    wants_hidden: bool = True
    first_segment_is_stock: bool = False
    _checked: set[int] = field(default_factory=set)

    def train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], HiddenState]:
        """The attention of a layer, and the tokens that the next piece sees."""
        check_unweighted(call, self.name)
        assert call.hidden is not None
        text = call.text
        P = self.back
        L = self.segment
        hidden = call.hidden.detach()
        state = call.state or HiddenState.empty(hidden, P)
        every = torch.cat([state.hidden, hidden], 1)
        k = _projected(call, "k_proj", call.k, every)
        v = _projected(call, "v_proj", call.v, every)
        self._check(call, k[:, :, P:], v[:, :, P:])
        seen = past_seen(text.document, text.valid, state.of, L)
        before = past(k[:, :, P:], k[:, :, :P], L), past(v[:, :, P:], v[:, :, :P], L)
        out = self._attended(call, *before, seen)
        return out, HiddenState(every[:, hidden.shape[1] :], owners(text.document, text.valid, state.of, L))

    def _attended(self, call: TrainCall, past_k: Tensor, past_v: Tensor, seen: Tensor) -> Tensor:
        """Relative attention of all segments: segments stand where rows do."""
        (B, N, P), L = seen.shape, self.segment
        q = call.raw_q.unflatten(2, (N, L)).transpose(1, 2).flatten(0, 1)
        k, v = (
            torch.cat([old, new.unflatten(2, (N, L))], 3).transpose(1, 2).flatten(0, 1)
            for old, new in ((past_k, call.raw_k), (past_v, call.v))
        )
        own = torch.ones(B, N, L, dtype=torch.bool, device=seen.device)
        present = torch.cat([seen, own], -1).flatten(0, 1)
        r = relative_keys(call.parameters["W_R"], P + L, q.shape[-1], self.clamp).to(q.dtype)
        u = call.parameters["u"]
        w = call.parameters["w"]
        first = first_seen(L, P, self.keys, q.device)
        out = relative_attention(q, k, v, r, u, w, first, call.scale, present)
        return out.unflatten(0, (B, N)).transpose(1, 2).flatten(2, 3)

    def _check(self, call: TrainCall, k: Tensor, v: Tensor) -> None:
        """CapabilityError, once for each layer, unless `k` and `v`, projected here, are what the model attends to."""
        layer = call.plan.index
        if layer in self._checked:
            return
        for name, mine, theirs in (("k_proj", k, call.raw_k), ("v_proj", v, call.v)):
            error = float((mine - theirs).detach().norm() / theirs.detach().norm())
            if not error <= max(TOLERANCE[x.dtype] for x in (mine, theirs)):
                raise _refused(call, f"what it attends to is not {name} of its input alone (off by {error:.2g})")
        self._checked.add(layer)


def relative_keys(W_R: Float[Tensor, "GD W"], distances: int, dim: int, clamp: int | None) -> Float[Tensor, "S G D"]:
    """r, the keys of the distances 0 .. `distances` - 1: sinusoids, projected by the layer."""
    R = sinusoids(torch.arange(distances, device=W_R.device), W_R.shape[1], clamp)
    return (R.to(W_R.dtype) @ W_R.T).unflatten(1, (-1, dim))


def _projected(call: TrainCall, name: str, like: Tensor, hidden: Tensor) -> Float[Tensor, "B G S D"]:
    """Keys or values of hidden states, by the model's own projection."""
    project: Any = getattr(call.module, name, None)
    if project is None:
        raise _refused(call, f"has no {name}")
    return project(hidden).unflatten(-1, (like.shape[1], like.shape[3])).transpose(1, 2)


def _refused(call: TrainCall, why: str) -> CapabilityError:
    return CapabilityError(
        f"transformer_xl: variant=faithful cannot be trained on {type(call.module).__name__}: {why}; use a Llama "
        "config, or variant=cache"
    )


def _none(like: Tensor, tokens: int) -> Int[Tensor, "B P"]:
    """No documents."""
    return torch.full((len(like), tokens), NONE, dtype=torch.long, device=like.device)
