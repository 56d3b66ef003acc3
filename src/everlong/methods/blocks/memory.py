"""The block memory of a cache: what leaves the window of each of its streams is kept in blocks.

InfLLM (arXiv 2402.04617). Letters: B streams (rows), H query heads, G kv heads, T new tokens, M columns of the arena,
D, E head dims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.cache.stream_memory import MemoryAccount
from everlong.cache.window import WindowLayout
from everlong.errors import CapabilityError
from everlong.methods.blocks import layout, saved
from everlong.methods.blocks.boundaries import SurpriseBoundaries, longest_forward, make_cuts
from everlong.methods.blocks.decode import TokenRun, added, of_all, token_run
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.recall.index import KeyPair, MakeRecall, no_recall
from everlong.methods.blocks.recall.scout import Scout
from everlong.methods.blocks.saved import StoredBlocks
from everlong.methods.blocks.step import BlockStep, LayerCall
from everlong.methods.blocks.stream import BlockStream, Done
from everlong.models.layout import LayerPlan, ModelLayout, Pattern
from everlong.ops.attend_token import takes
from everlong.ops.spans import Ints
from everlong.storage.base import HostStore, Store

RECALL_ON_RANKS = (
    "recall=question: the votes of retrieval heads that are shared out to ranks are not summed; give recall=layer, or "
    "load the model whole"
)


class BlockMemory:
    """What leaves the window of the full-attention layers; natively sliding layers keep to their own window."""

    retrieves: ClassVar[bool] = True
    digest_dtype: torch.dtype = torch.bfloat16
    """Of new streams; float32 in those from before."""

    def __init__(
        self,
        settings: BlockSettings,
        plan: ModelLayout,
        make_store: Callable[[], Store] = HostStore,
        make_recall: MakeRecall = no_recall,
    ) -> None:
        layout.check_model(settings, plan)
        self.settings = settings
        self.plan = plan
        self.make_store = make_store
        self.make_recall = make_recall
        self.keeps_inputs = False
        self.layers = layout.served_layers(plan)
        joint = any(plan.by_index[i].joint for i in self.layers)
        self._absorbed = plan.expansions(plan) if joint and plan.expansions is not None else {}
        self.chunk_limit = longest_forward(settings)
        """Tokens that one forward takes at most."""
        self.wants_surprisals = settings.cut == "surprise"
        """Whether every forward is to be followed by `tell`."""
        self.rows: list[BlockStream] = []
        self.answering = False
        self.scout: Scout | None = None
        self.token: TokenRun | None = None
        """What computes the running step, where it reads a token in the middle of a chunk."""
        self._run: TokenRun | None = None
        self._begun: tuple[ForwardPlan, Ints | None] | None = None
        self._shared: BlockStep | None = None

    def lane(self, pattern: Pattern, chunk: int) -> WindowLayout:
        """How the arenas of layers with this native pattern are laid out."""
        return layout.lane(self.settings, self.plan, pattern, chunk)

    # A step.

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError where a forward over `tokens` new tokens behind `seen` lacks what it needs."""
        if self.settings.cut == "even":
            return
        for cuts, pad in [(row.cuts, row.pad) for row in self.rows] or [(make_cuts(self.settings), 0)]:
            cuts.check(seen - pad, tokens)

    def tell(self, surprisals: Float[Tensor, "B T"]) -> None:
        """Take -log p (nats) of the tokens that the last forward read; NaN where it is not known."""
        for row, values in zip(self.rows, surprisals, strict=True):
            assert isinstance(row.cuts, SurpriseBoundaries)
            row.cuts.tell(values.double().cpu().numpy())

    def tell_lost(self, seen: int) -> None:
        """Let the surprisals of those of the `seen` tokens that were not told be unknown for good."""
        for row in self.rows:
            assert isinstance(row.cuts, SurpriseBoundaries)
            row.cuts.tell(np.full(seen - row.pad - row.cuts.known, np.nan))

    def begin(self, step: ForwardPlan, pads: Ints | None) -> None:
        """Prepare a step."""
        self._begun = step, pads
        self._shared = self.token = None
        run = self._run if self.scout is None else None
        if run is not None and run.goes_on(step, self.answering, 0 if pads is None else int(pads[0])):
            self.token = run
            return
        for n, row in enumerate(self.rows):
            row.settle()
            if (pad := 0 if pads is None else int(pads[n])) != row.pad:
                row.pad, row.cuts = pad, make_cuts(self.settings, pad - step.seen)
            for part in row.layers.values():
                if not part.slots.filled:
                    part.prefetch()
        if self.scout is None and step.tokens == 1 and len(self.rows) == 1:
            row = self.rows[0]
            self._run = run = token_run(row, row.done, step, step.seen, self.answering)
            self.token = run if run is not None and run.goes_on(step, self.answering, row.pad) else None

    @property
    def _step(self) -> BlockStep:
        """What the layers of the running step share; of a token that a run computes, made where it is asked for."""
        if self._shared is None:
            assert self._begun is not None
            self._shared = BlockStep(self.settings, self.answering, *self._begun)
        return self._shared

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """Attention of a layer over its columns `k`, `v` [B, G, M, D] and what the memory brings.

        A layer that makes keys of latent vectors is asked over those.
        """
        if self.token is not None and takes(q, k, v, softcap):
            return self.token.attend(layer, q, k, v, scale, s_aux)
        absorbed = self._absorbed.get(layer.index)
        if absorbed is not None:
            latent, rotated = self._step.step.arenas[layer.source].view or (k, v)
            q, k, v = absorbed.queries(q), torch.cat((latent, rotated), 3), latent
        if self.scout is not None:
            out = LayerCall(self._step, layer, scale, softcap, s_aux).scouted(self.scout, self.rows[0], q, k, v)
        else:
            call = LayerCall(self._step, layer, scale, softcap, s_aux)
            while len(self.rows) < len(q):
                row = self._empty_row(self._step.pad(len(self.rows)))
                if row.recall is not None and self.plan.ranks is not None:
                    raise CapabilityError(RECALL_ON_RANKS)
                self.rows.append(row)
            each = [call.row(n, row, q[n : n + 1], k[n : n + 1], v[n : n + 1]) for n, row in enumerate(self.rows)]
            out = each[0] if len(each) == 1 else torch.cat(each)
        return out if absorbed is None else absorbed.outputs(out)

    def _empty_row(
        self, pad: int, pairs: Sequence[KeyPair] | None = None, stored: StoredBlocks | None = None
    ) -> BlockStream:
        """A stream that has read nothing but `pad` tokens of padding, over what is `stored`.

        Else over an empty store, with a recall index of these pairs.
        """
        if stored is None:
            stored = StoredBlocks(self.make_store(), self.make_recall(self.settings, self.plan, pairs))
        cuts = make_cuts(self.settings, pad)
        return BlockStream(self.settings, self.plan, self.digest_dtype, stored.store, cuts, stored.recall, pad)

    def commit(self) -> None:
        """Make the step's changes part of the stream."""
        if self.token is not None:
            # A token in the middle of a chunk has sealed and chosen nothing.
            found = {} if self._shared is None else self._shared.cited[0]
            self.rows[0].done = self.token.commit(found)
            self.token = self._begun = self._shared = None
            return
        step = self._step
        for row in self.rows:
            row.keep_sealed()
        found = []
        for n, row in enumerate(self.rows):
            cited = added(row.done.cited, of_all(self.plan.ranks, step.cited[n]))
            found.append(Done({i: m.now for i, m in row.layers.items()}, step.cursor(row), cited))
        # The token that chose prepares those behind it; before anything is valid, as it may fail.
        plan = step.step
        single = plan.tokens == 1 and len(self.rows) == 1
        self._run = token_run(self.rows[0], found[0], plan, plan.seen + 1, self.answering) if single else None
        for row, done, used in zip(self.rows, found, step.used, strict=True):
            row.done = done
            row.used.update(used)
        self._begun = self._shared = None

    def abandon(self) -> None:
        """Forget a step that failed: counters go back, and slots that may hold blocks of it are emptied."""
        self._begun = self._shared = self.token = self._run = None
        if not any(row.done.progress for row in self.rows):
            self.rows = []
        for row in self.rows if self.scout is None else ():
            for memory in row.layers.values():
                memory.slots.empty()

    def check_crop(self, seen: int, target: int, pads: Ints | None) -> None:
        """Always refused: what tokens read moved the mass of earlier ones."""
        raise CapabilityError(
            f"crop({target - seen}): blocks keeps what later tokens attended to and cannot take it back; "
            "fork before you read on, or use greedy search or sampling"
        )

    # What is kept.

    def account(self, seen: int) -> MemoryAccount:
        """What is kept and was moved; of tokens those of the row with most of them."""
        return saved.account(self.rows)

    @property
    def lies_on_disk(self) -> bool:
        """Whether stored blocks are in files, so that `state` cannot hold them."""
        return self.settings.keep == "blocks" and any(row.store.lies_on_disk for row in self.rows)

    def pending_keys(self, layer: int, first: int, end: int) -> tuple[int, Float[Tensor, "G n D"] | None]:
        """(tokens that left the window, keys of those of the tokens `first` .. `end` - 1 among them, not rotated).

        Of a single row, and of tokens that are in no block yet.
        """
        done = self.rows[0].done.progress.get(layer) if self.rows else None
        if done is None or first >= done.held:
            return 0 if done is None else done.held, None
        column = done.at - done.pending
        return done.held, done.tail.k[0, :, first + column : min(end, done.held) + column]

    def planned_bytes(self, chunk: int) -> int:
        """Bytes of sinks, slots, pending tokens, masses and queries of one row that reads chunks of `chunk`."""
        return layout.planned_bytes(self.settings, self.plan, chunk)

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on; the sealed blocks too, or (not `sealed`) without what a store on disk keeps."""
        tensors: dict[str, Tensor] = {}
        rows = []
        for n, row in enumerate(self.rows):
            found, facts = saved.state(row, sealed)
            tensors |= {f"row{n}.{name}": x for name, x in found.items()}
            rows.append(facts)
        return tensors, {"answering": self.answering, "digests": saved.name_of(self.digest_dtype), "rows": rows}

    def restored(
        self,
        tensors: dict[str, Tensor],
        facts: dict[str, Any],
        device: torch.device,
        stored: Sequence[StoredBlocks] = (),
    ) -> BlockMemory:
        """A memory of the same settings with this state; blocks that it lacks are in the store.

        `stored`: those of its rows, where they were offloaded and their stores are as they left them.
        """
        other = self.fresh()
        other.answering = facts["answering"]
        other.digest_dtype = saved.DIGESTS[facts.get("digests", "float32")]
        for n, kept in enumerate(facts["rows"]):
            over = stored[n] if stored else None
            row = other._empty_row(0, saved.pairs(kept.get("recall")), over)
            saved.restore(row, saved.named(tensors, f"row{n}."), kept, device, over)
            other.rows.append(row)
        return other

    def fresh(self) -> BlockMemory:
        """A memory of the same model and settings that holds nothing."""
        other = BlockMemory(self.settings, self.plan, self.make_store, self.make_recall)
        other.digest_dtype = self.digest_dtype
        return other

    def fork(self, rows: list[int] | None = None) -> BlockMemory:
        """An independent memory of the same rows, or of `rows` in this order; sealed blocks are shared."""
        make_store = HostStore if self.make_store().lies_on_disk else self.make_store
        other = BlockMemory(self.settings, self.plan, make_store)
        other.answering = self.answering
        other.digest_dtype = self.digest_dtype
        other.rows = [self.rows[n].fork() for n in (range(len(self.rows)) if rows is None else rows)]
        return other
