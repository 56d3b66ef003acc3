"""What the delta rule keeps of a stream: M behind the last whole segment, and the tokens of the open one.

M moves at the ends of segments, so the newest tokens may be taken back. Of the open segment there are kept what its
tokens wrote (u, with their keys), and what entered the convolutions of it and of the K - 1 tokens before it.

Letters: B rows, H query heads, G kv heads, T new tokens, L tokens per segment, K taps, D key dim, E value dim, F
numbers of phi, C channels of the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.delta.maps import Maps, check_model
from everlong.methods.recurrent.core import RecurrentCall, State
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.delta import OpenSegment, Writes, feature_count, fold_open, read_open, read_segments
from everlong.ops.segments import NONE


@dataclass(frozen=True, eq=False)
class DeltaCore:
    """Reads M and the open segment with each query, and goes on with M at the end of each segment.

    `reset`: M is emptied every so many tokens (a control). Not `reads`: it answers zeros, and keeps nothing; unless it
    `compresses` either, it is the window alone (two more). What entered the convolutions for place t lies at
    t % (L + K - 1), keys and u at t % L.
    """

    segment: int
    back: int
    degree: int
    maps: Mapping[int, Maps]
    reset: int | None = None
    reads: bool = True
    compresses: bool = True
    name: str = "delta"

    @property
    def wants_hidden(self) -> bool:
        """For projections and the strength of writing."""
        return self.reads

    def check(self, plan: ModelLayout) -> None:
        """Keys and values of every layer, of the same heads."""
        check_model(plan, self.degree)

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """M [B, G, F, E]; of the open segment k, u, log_g (where there is decay) and `entered` [B, L + K - 1, C]."""
        if not self.reads:
            return {}
        maps = self.maps[layer.index]
        sizes, L = maps.sizes, self.segment
        G = sizes.kv_heads
        shapes = {
            "M": (G, feature_count(sizes.D, self.degree), sizes.E),
            "k": (G, L, sizes.D),
            "u": (G, L, sizes.E),
            "entered": (L + maps.look_back - 1, sum(sizes.channels)),
        }
        if "w_a" in maps.given:
            shapes["log_g"] = (G, L)
        dtype = maps.given["taps_q"].dtype
        return {name: torch.zeros(rows, *shape, dtype=dtype, device=device) for name, shape in shapes.items()}

    def attend(self, call: RecurrentCall, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """The window's output, and what the memory answers to each token from the first on."""
        local = call.local()
        if not self.reads or call.padding == local.shape[1]:
            return local, state
        state = {name: x if name == "M" else x.clone() for name, x in state.items()}
        far, state["M"] = self._read(self._tokens(call, state), state, call.start + call.padding)
        heads, added = self.maps[call.plan.index].leaving(far)
        if added is not None:
            call.added = torch.nn.functional.pad(added, (0, 0, call.padding, 0)).to(local.dtype)
            return local, state
        assert heads is not None
        pad = (0, 0, 0, 0, call.padding, 0)
        return local + torch.nn.functional.pad(heads.transpose(1, 2), pad).to(local.dtype), state

    def _tokens(self, call: RecurrentCall, state: State) -> Writes:
        """The new tokens as the rule takes them; what entered their convolutions is put into `state`."""
        maps = self.maps[call.plan.index]
        first = call.start + call.padding
        end = call.start + call.q.shape[2]
        assert call.hidden is not None
        hidden = call.hidden[:, call.padding :]
        if maps.own:
            new = maps.projected(hidden)
        else:
            q = call.raw_q()[:, :, call.padding :]
            new = maps.joined(q, call.raw_k(first, end), call.values(first, end))
        ring = state["entered"]
        size = ring.shape[1]
        places = torch.arange(first - maps.look_back + 1, end, device=ring.device)
        old = ring[:, places[: maps.look_back - 1] % size]
        kept = min(end - first, size)
        ring[:, places[len(places) - kept :] % size] = new[:, new.shape[1] - kept :]
        document = torch.where(places < 0, NONE, 0).expand(len(new), -1)
        return maps.tokens(torch.cat([old, new], 1), document, hidden)

    def _read(self, tokens: Writes, state: State, first: int) -> tuple[Float[Tensor, "B H T E"], Tensor]:
        """What the tokens from place `first` on read, and M behind the last whole segment; `state` gets the rest."""
        L = self.segment
        T = tokens.q.shape[2]
        M = state["M"]
        found = []
        at = 0
        while at < T:
            place = first + at
            inside = place % L
            count = min(T - at, L - inside)
            if inside == 0 and self.reset is not None and place % self.reset == 0:
                M = torch.zeros_like(M)
            if inside or count < L:
                out, M = self._open(tokens.part(at, at + count), state, M, inside)
            else:
                count = self._whole(place, T - at)
                out, M = read_segments(tokens.part(at, at + count), M, L, self.degree)
            found.append(out)
            at += count
        return torch.cat(found, 2), M

    def _whole(self, place: int, tokens: int) -> int:
        """How many of the tokens from `place`, a segment's start, are read at once: whole segments up to a reset."""
        until = tokens if self.reset is None else min(tokens, self.reset - place % self.reset)
        return until - until % self.segment

    def _open(self, tokens: Writes, state: State, M: Tensor, inside: int) -> tuple[Tensor, Tensor]:
        """What a part of a segment reads, which begins at its place `inside`; M, gone on where the segment is full."""
        out, new = read_open(tokens, M, _first(state, inside), self.degree)
        end = inside + tokens.q.shape[2]
        for name, x in zip(OpenSegment._fields, new, strict=True):
            if x is not None:
                state[name][:, :, inside:end] = x
        if end == self.segment:
            M = fold_open(M, _first(state, end), self.degree)
        return out, M


def _first(state: State, count: int) -> OpenSegment:
    """The first so many tokens of the open segment."""
    log_g = state["log_g"][:, :, :count] if "log_g" in state else None
    return OpenSegment(state["k"][:, :, :count], state["u"][:, :, :count], log_g)
