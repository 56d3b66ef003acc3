"""One stream (or a batch of streams of one length) in bounded memory: what is kept, and a step over more tokens."""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor

from everlong.cache.frames import Frame, frames_of_step
from everlong.cache.images import check_images
from everlong.cache.layer_kv import LayerKV
from everlong.cache.layer_state import ModelStates
from everlong.cache.positions import ImagePlanes, TokenPlaces
from everlong.cache.report import MemoryReport
from everlong.cache.step import ForwardPlan
from everlong.cache.stream_memory import MemoryAccount, RetrievalMemory, StreamMemory
from everlong.cache.window import ENDLESS, WindowLayout
from everlong.errors import CapabilityError
from everlong.models.layout import ModelLayout, Pattern
from everlong.ops.spans import Ints
from everlong.ops.workspace import Workspace


class CachedStream:
    """Keys and values: `sinks` tokens at the start and the newest `window` tokens are kept; None keeps all.

    Layers with a state of constant size keep it of all that was read, whatever the method.
    """

    def __init__(
        self,
        plan: ModelLayout,
        method: str,
        sinks: int,
        window: int | None,
        chunk: int = 512,
        memory: StreamMemory | None = None,
    ) -> None:
        self.plan = plan
        self.method = method
        self.sinks = sinks
        self.window = window
        self.chunk = chunk
        self.memory = memory
        self.seen_tokens, self.segments = 0, [Frame(0, 0)]
        self.places = TokenPlaces()
        self.pads: Ints | None = None
        self._pads_before: Ints | None = None
        self.running: ForwardPlan | None = None
        """The forward that has begun, if one has."""
        self._scratch = Workspace()
        self.lanes: dict[Pattern, WindowLayout] = {}
        self.arenas = {p.index: LayerKV(self._lane(p.pattern)) for p in plan.layers if p.source == p.index}
        self.states = ModelStates(plan)

    def _lane(self, pattern: Pattern) -> WindowLayout:
        if self.memory is not None and pattern not in self.lanes:
            self.lanes[pattern] = self.memory.lane(pattern, self.chunk)
        window = ENDLESS if self.window is None else self.window
        return self.lanes.setdefault(pattern, WindowLayout(pattern, self.sinks, window, self.chunk))

    @property
    def blocks(self) -> RetrievalMemory | None:
        """The memory, if it brings back what it stores."""
        retrieves = self.memory is not None and self.memory.retrieves
        return cast("RetrievalMemory", self.memory) if retrieves else None

    @property
    def rows(self) -> int:
        """Rows of the batch; 0 before the first forward."""
        for arena in self.arenas.values():
            if arena.keys is not None:
                return arena.keys.shape[0]
        return 0

    # A step: begin, write and attend layer by layer, commit or abandon.

    @property
    def step(self) -> ForwardPlan:
        """The forward that is running; CapabilityError if there is none."""
        if self.running is None:
            raise CapabilityError(
                "StreamCache: used outside a forward of the attached model; pass it as past_key_values to the model "
                "that it was made for, while attached"
            )
        return self.running

    def columns(self, tokens: int, layer: int) -> int:
        """How many columns a layer shows to the step, or to one of so many tokens that has not begun."""
        if self.running is None:
            return self.seen_tokens + tokens
        plan = self.plan.by_index.get(layer, self.plan.layers[0])
        return self.running.columns(self.arenas[plan.source].lane)

    def begin(
        self, tokens: int, rows: int = 1, pads: Ints | None = None, planes: ImagePlanes | None = None
    ) -> ForwardPlan:
        """Prepare a forward over `tokens` new tokens in each of `rows`.

        `pads` [rows] counts the left padding; it may grow where a row has no tokens yet. `planes` says where the
        tokens stand by axis, if there is an image among them.
        """
        if planes is not None:
            check_images(self.plan, self.method, self.memory, rows, self.pads if pads is None else pads)
        if self.memory is not None:
            self.memory.check(self.seen_tokens, tokens)
        held = self.rows
        if held not in (0, rows):
            if self.seen_tokens:
                raise CapabilityError(f"StreamCache: holds {held} rows, got {rows}; make a new cache")
            self.reset()
        seen = self.seen_tokens
        places = self.places
        place = seen if places.is_text else places.at(seen)
        end = place + tokens if places.is_text else places.at(seen + tokens)
        if planes is not None:
            places = places.then(seen, planes)
            end = planes.end
        segments = self.segments
        # Most steps stay in their frame; that is asked here, as it is asked for every token.
        if self.plan.hard_length is not None or end - segments[-1].base > self.plan.frame_length:
            segments = frames_of_step(self.plan, self.method, self.lanes.values(), segments, (seen, place, end))
        self._pads_before = self.pads
        if pads is not None:
            self.set_pads(pads)
        for lane in self.lanes.values():
            if seen + tokens > lane.reach:
                lane.make_room(seen, tokens)
        frame = seen, tokens, rows, segments[-1].base, segments
        shared = self.arenas, self.plan.by_index, self._scratch, self.plan.dtype
        self.running = step = ForwardPlan(*frame, *shared, place, places, planes)
        if self.states:
            self.states.begin(seen)
        if self.memory is not None:
            step.memory = self.memory
            self.memory.begin(step, self.pads)
        return step

    def commit(self) -> None:
        """Make the finished forward part of the stream."""
        step = self.running or self.step
        if self.memory is not None:
            self.memory.commit()
        self.seen_tokens = step.seen + step.tokens
        self.places = step.places
        for arena in self.arenas.values():
            arena.commit(self.seen_tokens)
        if self.states:
            self.states.commit()
        self.segments = step.segments
        if len(step.segments) > 1:
            oldest = min(lane.oldest(self.seen_tokens) for lane in self.lanes.values())
            ends = [s.start for s in step.segments[1:]] + [self.seen_tokens + 1]
            self.segments = [s for s, end in zip(step.segments, ends, strict=True) if end > oldest]
        self.running = None

    def abandon(self) -> None:
        """Forget a forward that failed, if one did; the stream is as it was before it."""
        if self.running is None:
            return
        if self.memory is not None:
            self.memory.abandon()
        for arena in self.arenas.values():
            arena.abandon()
        self.states.abandon(self.seen_tokens)
        self.set_pads(self._pads_before)
        self.running = None

    # Going back, and rows.

    def crop(self, target: int) -> None:
        """Forget the tokens from `target` on; CapabilityError if what came before them is gone."""
        places = self.places.cropped(target)
        self.states.check_crop(self.seen_tokens, target)
        if self.memory is not None:
            self.memory.check_crop(self.seen_tokens, target, self.pads)
        for lane in self.lanes.values():
            if lane.shift and lane.oldest(target) - lane.shift < lane.fixed:
                raise CapabilityError(
                    f"crop({target - self.seen_tokens}): tokens that the earlier context needs have left the window "
                    f"({self.method}, seen {self.seen_tokens}); use a larger window, or fork before you read on"
                )
        self.seen_tokens = target
        self.places = places
        self.states.crop(target)
        if self.pads is not None:
            self.set_pads(np.minimum(self.pads, target) if target else None)
        self.segments = [s for s in self.segments if s.start < max(1, target)]

    def reset(self) -> None:
        """Forget everything."""
        self.seen_tokens, self.segments, self.pads = 0, [Frame(0, 0)], None
        self.places = TokenPlaces()
        self._scratch = Workspace()
        for lane in self.lanes.values():
            lane.shift = 0
            lane.reach = 0
            lane.pads = None
        for arena in self.arenas.values():
            arena.clear()
        self.states.clear_all()
        if self.memory is not None:
            self.memory = self.memory.fresh()

    def select_rows(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        for arena in self.arenas.values():
            arena.select_rows(indices, self.seen_tokens)
        self.states.select_rows(indices)
        if self.pads is not None:
            self.set_pads(self.pads[indices.cpu().numpy()])
        if self.memory is not None:
            self.memory = self.memory.fork(indices.tolist())

    def set_pads(self, pads: Ints | None) -> None:
        """Take how many tokens of padding each row begins with."""
        self.pads = pads
        for lane in self.lanes.values():
            lane.pads = pads
            lane.reach = 0

    # What is kept.

    @property
    def is_whole(self) -> bool:
        """Whether nothing was evicted or folded into a state yet (never with blocks: tokens move masses of others)."""
        account = self._account()
        kept = account.dropped_tokens + account.compressed_tokens == 0 and self.blocks is None
        return kept and not (self.states and self.seen_tokens)

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
        total += 2 * self.plan.state_bytes  # a step keeps what they were before it
        return total + (0 if self.memory is None else self.memory.planned_bytes(self.chunk))

    def report(self) -> MemoryReport:
        """What the stream has seen, keeps and lost."""
        seen = self.seen_tokens
        account = self._account()
        dropped = account.dropped_tokens
        compressed = account.compressed_tokens
        sinks = min(self.sinks, seen)
        window = seen - sinks if self.window is None else min(self.window, seen - sinks)
        if self.blocks is None:
            window = seen - sinks - compressed - dropped
        device = account.bytes["device"] + sum(a.nbytes for a in self.arenas.values()) + self.states.nbytes
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
            state_bytes=self.states.nbytes,
        )

    def fork(self) -> CachedStream:
        """An independent stream that goes on from here; costs one copy of what is kept."""
        memory = None if self.memory is None else self.memory.fork()
        other = CachedStream(self.plan, self.method, self.sinks, self.window, self.chunk, memory)
        other.seen_tokens, other.segments = self.seen_tokens, list(self.segments)
        other.places = self.places
        for pattern, lane in self.lanes.items():
            other.lanes[pattern].shift = lane.shift
        if self.pads is not None:
            other.set_pads(self.pads.copy())
        for index, arena in self.arenas.items():
            arena.copy_to(other.arenas[index], self.seen_tokens)
        self.states.copy_to(other.states)
        return other
