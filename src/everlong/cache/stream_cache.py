"""The transformers cache that holds a stream: `model.generate(past_key_values=cache)` and `Session` both use it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache

from everlong.cache.layer_kv import Arena
from everlong.cache.report import MemoryReport
from everlong.cache.step import Segment, Step
from everlong.cache.stream_memory import MemoryAccount, RetrievalMemory, StreamMemory
from everlong.cache.window import ENDLESS, Lane
from everlong.errors import CapabilityError
from everlong.models.layout import Pattern, RotaryPlan
from everlong.ops.attend import Scratch
from everlong.ops.rotary import turn_by, turned
from everlong.ops.spans import Ints


@runtime_checkable
class Holder(Protocol):
    """What keeps a model attached for as long as somebody holds it."""

    def hold(self) -> None:
        """One more needs it."""

    def release(self) -> None:
        """One fewer does."""


class StreamCache(Cache):
    """Keys and values of one stream (or of a batch of streams of one length) in bounded memory.

    `sinks` tokens at the start and the newest `window` tokens are kept; None keeps all. It is written only by
    forwards of the model that it was made for, while that model is attached. For inference: no gradient flows
    through it.
    """

    def __init__(
        self,
        plan: RotaryPlan,
        method: str,
        sinks: int,
        window: int | None,
        chunk: int = 512,
        holder: Holder | None = None,
        memory: StreamMemory | None = None,
    ) -> None:
        self._holder = holder
        if holder is not None:
            holder.hold()
        self.plan, self.method = plan, method
        self.sinks, self.window, self.chunk, self.memory = sinks, window, chunk, memory
        self.seen_tokens, self.segments = 0, [Segment(0, 0)]
        self.pads: Ints | None = None
        self._pads_before: Ints | None = None
        self._step: Step | None = None
        self._scratch = Scratch()
        self.lanes: dict[Pattern, Lane] = {}
        self.arenas = {p.index: Arena(self._lane(p.pattern)) for p in plan.layers if p.source == p.index}
        super().__init__(layers=[self.arenas[p.source] for p in plan.layers])

    def _lane(self, pattern: Pattern) -> Lane:
        if self.memory is not None and pattern not in self.lanes:
            self.lanes[pattern] = self.memory.lane(pattern, self.chunk)
        window = ENDLESS if self.window is None else self.window
        return self.lanes.setdefault(pattern, Lane(pattern, self.sinks, window, self.chunk))

    # A step: begin, write and attend layer by layer, commit or abandon.

    @property
    def trained_length(self) -> int:
        """How many positions the model was trained on."""
        return self.plan.trained_length

    @property
    def blocks(self) -> RetrievalMemory | None:
        """The memory, if it brings back what it stores."""
        retrieves = self.memory is not None and self.memory.retrieves
        return cast("RetrievalMemory", self.memory) if retrieves else None

    @property
    def answering(self) -> bool:
        """Whether the next tokens answer: each then chooses for itself what it remembers (blocks; else no effect)."""
        return self.blocks is not None and self.blocks.answering

    @answering.setter
    def answering(self, answering: bool) -> None:
        if self.blocks is not None:
            self.blocks.answering = answering

    @property
    def step(self) -> Step:
        """The forward that is running; CapabilityError if there is none."""
        if self._step is None:
            raise CapabilityError(
                "StreamCache: used outside a forward of the attached model; pass it as past_key_values to the model "
                "that it was made for, while attached"
            )
        return self._step

    def begin(self, tokens: int, rows: int = 1, pads: Ints | None = None) -> Step:
        """Prepare a forward over `tokens` new tokens in each of `rows`.

        `pads` [rows] counts the left padding; it may grow where a row has no tokens yet.
        """
        if self.memory is not None:
            self.memory.check(self.seen_tokens, tokens)
        if self.batch_size not in (-1, rows):
            if self.seen_tokens:
                raise CapabilityError(f"StreamCache: holds {self.batch_size} rows, got {rows}; make a new cache")
            self.reset()
        base, segments = self._frame(tokens)
        self._pads_before = self.pads
        if pads is not None:
            self._set_pads(pads)
        for lane in self.lanes.values():
            lane.make_room(self.seen_tokens, tokens)
        self._step = Step(
            self.seen_tokens,
            tokens,
            rows,
            base,
            segments,
            self.arenas,
            self.plan.layers,
            self._scratch,
            self.plan.dtype,
        )
        if self.memory is not None:
            self._step.memory = self.memory
            self.memory.begin(self._step, self.pads)
        return self._step

    def _frame(self, tokens: int) -> tuple[int, list[Segment]]:
        """The base of the step and the segments with it; a new frame where positions would pass the limit."""
        seen, base, hard = self.seen_tokens, self.segments[-1].base, self.plan.hard_length
        if hard is not None and max(tokens, self._places(seen + tokens)) > hard:
            raise CapabilityError(
                f"{self.method}: {seen + tokens} tokens need positions past {hard}, where this model computes other "
                "angles; read in shorter chunks, or use a method whose sinks and window are shorter than that together"
            )
        if self.plan.alibi or seen == base or seen - base + tokens <= self.plan.frame_length:
            return base, self.segments
        return seen, [*self.segments, Segment(seen, seen)]

    def _places(self, tokens: int) -> int:
        """How many places the newest of `tokens` tokens and what it sees take in the cache at most."""
        lanes = self.lanes.values()
        return max(min(tokens, lane.sinks + min(lane.window, lane.kept)) for lane in lanes)

    def commit(self) -> None:
        """Make the finished forward part of the stream."""
        step = self.step
        if self.memory is not None:
            self.memory.commit()
        self.seen_tokens = step.seen + step.tokens
        for arena in self.arenas.values():
            arena.commit(self.seen_tokens)
        oldest = min(lane.oldest(self.seen_tokens) for lane in self.lanes.values())
        ends = [s.start for s in step.segments[1:]] + [self.seen_tokens + 1]
        self.segments = [s for s, end in zip(step.segments, ends, strict=True) if end > oldest]
        self._step = None

    def abandon(self) -> None:
        """Forget a forward that failed, if one did; the stream is as it was before it."""
        if self._step is None:
            return
        if self.memory is not None:
            self.memory.abandon()
        for arena in self.arenas.values():
            arena.abandon()
        self._set_pads(self._pads_before)
        self._step = None

    # What transformers asks of a cache.

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Store the new keys and values [B, G, T, D] of a layer; returns its columns [B, G, M, D]."""
        return self.step.write(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far."""
        return self.seen_tokens

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Tokens seen so far."""
        return self.seen_tokens

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(columns that `update` will return, 0)."""
        if self._step is None:
            return self.seen_tokens + query_length, 0
        return self._step.columns(self.arenas[self.plan.layers[layer_idx].source].lane), 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No maximum."""
        return -1

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first forward."""
        return next((a.keys.shape[0] for a in self.arenas.values() if a.keys is not None), -1)

    @property
    def is_compileable(self) -> bool:
        """Never."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Whether nothing has been evicted yet (never with blocks: what tokens read moved the mass of earlier ones)."""
        account = self._account()
        return account.dropped_tokens + account.compressed_tokens == 0 and self.blocks is None

    @property
    def is_sliding(self) -> list[bool]:
        """All False: native windows are applied here, not by transformers' masks."""
        return [False] * len(self.layers)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest -`tokens_to_remove` tokens (a number <= 0); CapabilityError if what came before is gone."""
        if tokens_to_remove > 0:
            raise CapabilityError(f"crop({tokens_to_remove}): give how many tokens to remove as a negative number")
        target = max(0, self.seen_tokens + tokens_to_remove)
        if target == self.seen_tokens:
            return
        if self.memory is not None:
            self.memory.check_crop(self.seen_tokens, target, self.pads)
        for lane in self.lanes.values():
            if lane.shift and lane.oldest(target) - lane.shift < lane.fixed:
                raise CapabilityError(
                    f"crop({tokens_to_remove}): tokens that the earlier context needs have left the window "
                    f"({self.method}, seen {self.seen_tokens}); use a larger window, or fork before you read on"
                )
        self.seen_tokens = target
        if self.pads is not None:
            self._set_pads(np.minimum(self.pads, target) if target else None)
        self.segments = [s for s in self.segments if s.start < max(1, target)]

    def reset(self) -> None:
        """Forget everything."""
        self.seen_tokens, self.segments, self.pads = 0, [Segment(0, 0)], None
        for lane in self.lanes.values():
            lane.shift, lane.pads = 0, None
        for arena in self.arenas.values():
            arena.clear()
        if self.memory is not None:
            self.memory = self.memory.fresh()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order (beam search)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        for arena in self.arenas.values():
            arena.select_rows(indices, self.seen_tokens)
        if self.pads is not None:
            self._set_pads(self.pads[indices.cpu().numpy()])
        if self.memory is not None:
            self.memory = self.memory.fork(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        if self.batch_size > 0:
            self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def _set_pads(self, pads: Ints | None) -> None:
        self.pads = pads
        for lane in self.lanes.values():
            lane.pads = pads

    # What everlong asks of it.

    def _account(self) -> MemoryAccount:
        """What became of the tokens that left the window."""
        if self.memory is not None:
            return self.memory.account(self.seen_tokens)
        dropped = 0 if self.window is None else max(0, self.seen_tokens - self.sinks - self.window)
        return MemoryAccount({"device": 0, "host": 0, "disk": 0}, dropped_tokens=dropped)

    def planned_bytes(self) -> int | None:
        """Bytes that the cache takes on the model's device for one row, however long the stream; None: no bound."""
        capacities = {index: arena.lane.capacity for index, arena in self.arenas.items()}
        plans = {p.index: p for p in self.plan.layers}
        if any(c is None and plans[i].numbers_per_token for i, c in capacities.items()):
            return None
        size = self.plan.dtype.itemsize
        total = sum((c or 0) * plans[i].numbers_per_token * size for i, c in capacities.items())
        return total + (0 if self.memory is None else self.memory.planned_bytes(self.chunk))

    def raw_keys(self, layer: int, first: int, end: int) -> Float[Tensor, "G n D"]:
        """Keys of the tokens `first` .. `end` - 1, as they were before they were rotated; of a single row.

        For tokens that a block memory has not sealed yet, in a layer that it serves.
        """
        assert self.blocks is not None
        rotation = self.plan.layers[layer].rotation
        held, pending = self.blocks.pending_keys(layer, first, end)
        found = [] if pending is None else [pending]
        arena, ends = self.arenas[layer], [*(s.start for s in self.segments[1:]), self.seen_tokens]
        for segment, after in zip(self.segments, ends, strict=True):
            a, b = max(first, held, segment.start), min(end, after)
            if a < b:
                keys = arena.pair[0][:, :, a - arena.shift : b - arena.shift]
                if rotation is not None:
                    back = turn_by(rotation, -torch.arange(a - segment.base, b - segment.base), keys)
                    keys = turned(keys, rotation, back)
                found.append(keys[0])
        return torch.cat(found, 1)

    def report(self) -> MemoryReport:
        """What the stream has seen, keeps and lost."""
        seen, account = self.seen_tokens, self._account()
        dropped, compressed = account.dropped_tokens, account.compressed_tokens
        sinks = min(self.sinks, seen)
        window = seen - sinks if self.window is None else min(self.window, seen - sinks)
        if self.blocks is None:
            window = seen - sinks - compressed - dropped
        device = account.bytes["device"] + sum(a.nbytes for a in self.arenas.values())
        return MemoryReport(
            self.method,
            seen_tokens=seen,
            sink_tokens=sinks,
            window_tokens=window,
            stored_tokens=seen - sinks - window - compressed - dropped,
            dropped_tokens=dropped,
            retrieved_tokens=account.retrieved_tokens,
            bytes=account.bytes | {"device": device},
            compressed_tokens=compressed,
            ids_tokens=account.ids_tokens,
            read_bytes=account.traffic.read_bytes,
            written_bytes=account.traffic.written_bytes,
            cache_hits=account.traffic.hits,
            cache_misses=account.traffic.misses,
        )

    def fork(self) -> StreamCache:
        """An independent stream that goes on from here; costs one copy of what is kept."""
        memory = None if self.memory is None else self.memory.fork()
        other = StreamCache(self.plan, self.method, self.sinks, self.window, self.chunk, self._holder, memory)
        other.seen_tokens, other.segments = self.seen_tokens, list(self.segments)
        for pattern, lane in self.lanes.items():
            other.lanes[pattern].shift = lane.shift
        if self.pads is not None:
            other._set_pads(self.pads.copy())
        for index, arena in self.arenas.items():
            arena.copy_to(other.arenas[index], self.seen_tokens)
        return other

    def __copy__(self) -> StreamCache:
        """A fork; tensors that two caches write are never shared."""
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamCache:
        """A fork; the model is not copied."""
        return self.fork()

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON-able facts): all that is needed to go on, the live columns only.

        Not `sealed`: without the blocks that a store on disk keeps.
        """
        tensors: dict[str, Tensor] = {}
        for index, arena in self.arenas.items():
            if arena.keys is None:
                continue
            for name, x in zip("kv", arena.pair, strict=True):
                live = [x[:, :, a:b] for a, b in arena.live(self.seen_tokens)]
                tensors[f"layer{index}.{name}"] = torch.cat(live, 2) if live else x[:, :, :0].clone()
        shifts = {str(index): arena.shift for index, arena in self.arenas.items()}
        columns = {str(i): a.keys.shape[2] for i, a in self.arenas.items() if a.keys is not None}
        memory = None
        if self.memory is not None:
            more, memory = self.memory.state(sealed)
            tensors |= more
        return tensors, {
            "memory": memory,
            "seen": self.seen_tokens,
            "segments": [[s.start, s.base] for s in self.segments],
            "pads": None if self.pads is None else self.pads.tolist(),
            "shifts": shifts,
            "columns": columns,
            "chunk": self.chunk,
        }

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Become the stream whose `state` this is; for a fresh cache of the same model (on `device`) and method."""
        self.seen_tokens, self.chunk = facts["seen"], facts["chunk"]
        self.segments = [Segment(*pair) for pair in facts["segments"]]
        for lane in self.lanes.values():
            lane.room = self.chunk
        if facts["pads"] is not None:
            self._set_pads(np.array(facts["pads"], dtype=np.int64))
        for index, arena in self.arenas.items():
            arena.shift = facts["shifts"][str(index)]
            # A forward that was abandoned has moved the columns of some layers; the others follow when next written.
            arena.lane.shift = max(arena.lane.shift, arena.shift)
            if str(index) in facts["columns"]:
                k, v = (tensors[f"layer{index}.{name}"].to(device) for name in "kv")
                arena.restore(k, v, facts["columns"][str(index)], self.seen_tokens)
        if self.memory is not None:
            kept = facts["memory"] if "memory" in facts else facts["blocks"]
            self.memory = self.memory.restored(tensors, kept, torch.device(device))

    def close(self) -> None:
        """Let go of the model; the last cache or handle to do so restores it. May be called twice."""
        if self._holder is not None:
            holder, self._holder = self._holder, None
            holder.release()

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # Bound here, as the interpreter empties modules at its end; the model needs no restoring then.
        if not ending():
            self.close()
