"""The slots of one layer: the chosen blocks and the sinks, each where the queries meet it.

Letters: H query heads, G kv heads, S sinks, L tokens per block at most, K chosen blocks, C choices, M columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.blocks.boundaries import BlockBoundaries
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.progress import LayerProgress, Shape
from everlong.ops.rotary import Rotation, turn_by, turned
from everlong.ops.spans import Ints
from everlong.storage.base import Store, stored

TurnTo = Callable[[Tensor, Sequence[tuple[int, int]]], Tensor]
"""Raw keys [1, G, n * L, D] of n blocks, turned; of each the first token in the stream, and where it is to stand."""

ONE_BY_ONE = {"cpu"}
"""Where blocks are put into their slots one after the other; a GPU waits for each thing that it is handed."""


class Slots:
    """Columns [K slots of L tokens | S sinks] of keys and values; a block ends where its slot ends."""

    def __init__(
        self, settings: BlockSettings, layer: int, shape: Shape, store: Store, cuts: BlockBoundaries, groups: int
    ) -> None:
        self._count = settings.top_k
        self._sinks = settings.sinks
        self._layer = layer
        self._device = shape.device
        self._store = store
        self._cuts = cuts
        self.first_sink = settings.top_k * settings.block
        """The column in which the sinks begin; slots lie before it."""
        self.pair = shape.pair(self.first_sink + settings.sinks)
        self.tags: list[list[tuple[int, int | None, int] | None]] = [[None] * self._count for _ in range(groups)]
        """Of each choice the (block, place, first column) that each slot holds."""
        self.filled = False
        self.sink_place: int | None = None
        """Where the first sink stands, once all sinks are there."""

    @property
    def placed(self) -> set[int]:
        """The blocks that lie in a slot."""
        return {tag[0] for tags in self.tags for tag in tags if tag is not None}

    def assigned(self, chosen: Ints, old: Ints | None) -> Ints:
        """Which block [C, K] is to lie in which slot (-1: none), each chosen one once; those that have one keep it."""
        slots = np.full((len(self.tags), self._count), -1) if old is None else old.copy()
        for row, blocks in zip(slots, chosen, strict=True):
            wanted = set(blocks.tolist())
            row[: self._count - len(wanted)] = -1
            free = [slot for slot in range(self._count - len(wanted), self._count) if row[slot] not in wanted]
            for block, slot in zip(sorted(wanted.difference(row.tolist())), free, strict=False):
                row[slot] = block
        return slots

    def fill(self, now: LayerProgress, places: Ints | None, pad: int, turn: TurnTo) -> None:
        """Bring the chosen blocks into their slots, their first tokens at `places` [C, n] (None: all tokens at 0).

        `pad` tokens of padding are in front of the stream.
        """
        if self.filled:
            return
        chosen = now.chosen
        slots = now.slots
        assert chosen is not None
        assert slots is not None
        columns = self.first_sink - self._cuts.behind(slots)
        for c, tags in enumerate(self.tags):
            at = {int(b): None if places is None else int(places[c, i]) for i, b in enumerate(chosen[c])}
            new = [None if b not in at else (b, at[b], int(columns[c, i])) for i, b in enumerate(slots[c].tolist())]
            wanted = [tag for tag, old in zip(new, tags, strict=True) if tag is not None and tag != old]
            tags[:] = [old if old == tag else None for tag, old in zip(new, tags, strict=True)]
            if wanted:
                self._fetch(c, wanted, pad, turn)
            tags[:] = new
        self.filled = True

    def shares(self, mass: Float[Tensor, "1 H M"], slots: Ints) -> list[list[float]]:
        """What the block in each slot got of the mass of the columns."""
        return self._cuts.shares(mass[0, :, : self.first_sink].view(len(self.tags), -1, self.first_sink), slots)

    def place_sinks(self, raw: tuple[Tensor, Tensor], held: int, places: Ints, rotation: Rotation | None) -> None:
        """Bring the `raw` sinks, of which there are `held`, to these places."""
        if not self._sinks or self.sink_place == (place := int(places[0])):
            return
        self.sink_place = None
        k, v = raw
        if rotation is not None:
            k = turned(k, rotation, turn_by(rotation, torch.from_numpy(places), k))
        for mine, x in zip(self.pair, (k, v), strict=True):
            mine[:, :, self.first_sink :] = x
        self.sink_place = place if held >= self._sinks else None

    def _fetch(self, c: int, tags: list[tuple[int, int | None, int]], pad: int, turn: TurnTo) -> None:
        heads = slice(c, c + 1) if len(self.tags) > 1 else slice(None)
        k, v = stored(self._store, self._layer, [block for block, *_ in tags], self._device)
        k = k[:, heads]
        v = v[:, heads]
        lengths = [self._cuts.start(block + 1) - self._cuts.start(block) for block, *_ in tags]
        if self._device.type not in ONE_BY_ONE and min(lengths) == k.shape[2]:
            self._put_at_once(heads, k, v, tags, turn, pad)
            return
        for n, ((block, place, column), length) in enumerate(zip(tags, lengths, strict=True)):
            keys = k[n : n + 1]
            if place is not None:
                keys = turn(keys, [(pad + self._cuts.start(block), place)])
            for mine, x in zip(self.pair, (keys[0], v[n]), strict=True):
                mine[0, heads, column : column + length] = x[:, :length]

    def _put_at_once(
        self,
        heads: slice,
        k: Float[Tensor, "n G L D"],
        v: Float[Tensor, "n G L E"],
        tags: list[tuple[int, int | None, int]],
        turn: TurnTo,
        pad: int,
    ) -> None:
        """Turn blocks of equal length and put them into their slots together."""
        keys = k.transpose(0, 1).flatten(1, 2)[None]
        moves = [(pad + self._cuts.start(block), place) for block, place, _ in tags if place is not None]
        if moves:
            keys = turn(keys, moves)
        columns = np.array([column for *_, column in tags])[:, None] + np.arange(k.shape[2])
        at = torch.from_numpy(columns.ravel()).to(self._device)
        for mine, x in zip(self.pair, (keys[0], v.transpose(0, 1).flatten(1, 2)), strict=True):
            mine[0, heads].index_copy_(1, at, x)

    def empty(self) -> None:
        """Forget what lies in the slots and where the sinks stand: after a step that was not committed."""
        self.sink_place = None
        self.filled = False
        self.tags = [[None] * self._count for _ in self.tags]
