"""The delta rule over whole rows under training.

Letters: B rows, H query heads, G kv heads of the memory, N segments, L tokens per segment, P = L ("xl") or 0 tokens of
the past, D key dim, E value dim, F numbers of phi, C channels of the convolutions, K taps, I = K - 1, J = max(P, I);
A kv heads of the model, X, Y dims of its keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.methods.delta.maps import Maps, of_layer
from everlong.methods.recurrent.training import TrainCall
from everlong.models.layout import ModelLayout
from everlong.ops.delta import feature_count, read_segments
from everlong.ops.segments import NONE, last_known, owners, past, past_seen, segment_attention


@dataclass(frozen=True, eq=False)
class DeltaState:
    """M of `document` [B]; of the last P tokens keys and values, of the last K - 1 what entered the convolutions.

    `of` [B, J] are the documents of the last J tokens.
    """

    M: Float[Tensor, "B G F E"]
    document: Int[Tensor, " B"]
    k: Float[Tensor, "B A P X"]
    v: Float[Tensor, "B A P Y"]
    entered: Float[Tensor, "B I C"]
    of: Int[Tensor, "B J"]

    @classmethod
    def empty(cls, call: TrainCall, maps: Maps, degree: int, tokens: int) -> DeltaState:
        """The state before the first token; P = `tokens`."""
        B = len(call.k)
        sizes = maps.sizes
        before = maps.look_back - 1
        like = maps.given["taps_q"]
        none = torch.full((B,), NONE, dtype=torch.long, device=call.k.device)
        k, v = (x.new_zeros(*x.shape[:2], tokens, x.shape[3]) for x in (call.k, call.v))
        M = like.new_zeros(B, sizes.kv_heads, feature_count(sizes.D, degree), sizes.E)
        of = none[:, None].expand(B, max(tokens, before))
        return cls(M, none, k, v, like.new_zeros(B, before, sum(sizes.channels)), of)

    def norm(self) -> float:
        """Frobenius norm of M, the mean over rows."""
        return float(self.M.detach().flatten(1).norm(dim=1).mean())

    def detach(self) -> DeltaState:
        """The same numbers, through which no gradient flows."""
        return DeltaState(**{f.name: getattr(self, f.name).detach() for f in fields(self)})


@dataclass(frozen=True, eq=False)
class DeltaTraining:
    """Local attention and the memory of all segments of a layer, in float32 at least."""

    segment: int
    back: int
    degree: int
    plan: ModelLayout
    name: str = "delta"
    wants_hidden: bool = True
    first_segment_is_stock: bool = False

    def train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], DeltaState]:
        """The attention of a layer, and what it carries on."""
        with torch.autocast(call.k.device.type, enabled=False):
            return self._train(call)

    def _train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], DeltaState]:
        wide = torch.promote_types(self.plan.dtype, torch.float32)
        maps = of_layer(self.plan, call.plan, call.parameters, wide)
        text = call.text
        L = text.length
        P = self.back
        state = call.state if call.state is not None else DeltaState.empty(call, maps, self.degree, P)
        J = state.of.shape[1]
        seen = past_seen(text.document, text.valid, state.of[:, J - P :], L)
        before = past(call.k, state.k, L), past(call.v, state.v, L)
        local = segment_attention(call.q, call.k, call.v, *before, seen, call.scale)
        far, M, entered, document = self._far(call, maps, state)
        heads, added = maps.leaving(far)
        if added is not None:
            call.added[call.plan.index] = added
        k, v = (torch.cat([old, new], 2)[:, :, new.shape[2] :] for old, new in ((state.k, call.k), (state.v, call.v)))
        of = owners(text.document, text.valid, state.of, L)
        out = local if heads is None else local + heads.to(local.dtype)
        return out, DeltaState(M, document, k, v, entered, of)

    def _far(self, call: TrainCall, maps: Maps, state: DeltaState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the tokens read, M behind them, what entered the last convolutions, and the document that M is of."""
        text = call.text
        hidden = call.hidden
        assert hidden is not None
        before = maps.look_back - 1
        new = maps.projected(hidden) if maps.own else maps.joined(call.raw_q, call.raw_k, call.v)
        entered = torch.cat([state.entered, new], 1)
        own = torch.where(text.valid, text.document.repeat_interleave(text.length, 1), NONE)
        J = state.of.shape[1]
        document = torch.cat([state.of[:, J - before :], own], 1)
        write = text.valid.to(entered.dtype) if call.write is None else text.valid * call.write.to(entered.dtype)
        tokens = maps.tokens(entered, document, hidden, write)
        if tokens.log_a is not None:
            self._check_repeats(call)
            tokens = tokens._replace(log_a=tokens.log_a * text.valid[:, None])
        known = last_known(torch.cat([state.document[:, None], text.document], 1))
        restart = (text.document != known[:, :-1]) & (text.document != NONE) & (known[:, :-1] != NONE)
        far, M = read_segments(tokens, state.M, text.length, self.degree, restart)
        return far, M, entered[:, entered.shape[1] - before :], known[:, -1]

    def _check_repeats(self, call: TrainCall) -> None:
        """CapabilityError where tokens that stand there more than once would have to fade as often."""
        if call.plan.index == 0 and call.write is not None and bool((call.write != 1).any()):
            raise CapabilityError("write_weight: not handled with decay=true; train with decay=false, or without it")
