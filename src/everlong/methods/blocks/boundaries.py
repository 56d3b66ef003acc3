"""Where the blocks of a row begin: at every L-th token, or before a token that surprises the model.

The sinks come first, then the blocks, without gaps. Only what is asked here knows how long a block is; no block is
longer than L tokens.

Letters: S sinks, L tokens per block at most, C choices, K slots, F query heads per choice, M columns, n blocks.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from everlong.cache.window import ENDLESS
from everlong.errors import CapabilityError
from everlong.methods.blocks.fields import BlockSettings
from everlong.ops.spans import Ints


@runtime_checkable
class BlockBoundaries(Protocol):
    """Where the blocks of one row begin; tokens are counted without padding."""

    @property
    def known(self) -> int:
        """Tokens whose block is known."""
        ...

    def start(self, block: int) -> int:
        """First token of a block; of what is pending, for the number behind the last block."""
        ...

    def starts(self, blocks: Ints) -> Ints:
        """First token of each of these blocks."""
        ...

    def before(self, token: int) -> int:
        """How many blocks end before `token`."""
        ...

    def tokens(self, blocks: Collection[int] | Ints) -> int:
        """How many tokens these blocks hold."""
        ...

    def behind(self, blocks: Ints) -> Ints:
        """Where blocks [C, n] lie one behind the other: from the first token of each to the end of all of them."""
        ...

    def shares(self, mass: Float[Tensor, "C F M"], slots: Ints) -> list[list[float]]:
        """What the block in each slot [C, K] got of `mass`, whose last column is that of the last slot's last token."""
        ...

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError where a forward over `tokens` new tokens behind `seen` lacks what it needs."""
        ...

    def copy(self) -> BlockBoundaries:
        """The same, independent."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on."""
        ...

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take a saved state."""
        ...


@dataclass(frozen=True)
class EvenBoundaries:
    """A block begins at every L-th token behind the sinks."""

    sinks: int
    block: int

    @property
    def known(self) -> int:
        """All."""
        return ENDLESS

    def start(self, block: int) -> int:
        """First token of a block."""
        return self.sinks + block * self.block

    def starts(self, blocks: Ints) -> Ints:
        """First token of each of these blocks."""
        return blocks * self.block + self.sinks

    def before(self, token: int) -> int:
        """How many blocks end before `token`."""
        return max(0, (token - self.sinks) // self.block)

    def tokens(self, blocks: Collection[int] | Ints) -> int:
        """How many tokens these blocks hold."""
        return len(blocks) * self.block

    def behind(self, blocks: Ints) -> Ints:
        """From the first token of each to the end of all of them."""
        return np.broadcast_to(self.block * np.arange(blocks.shape[1], 0, -1), blocks.shape)

    def shares(self, mass: Float[Tensor, "C F M"], slots: Ints) -> list[list[float]]:
        """What the block in each slot got."""
        return mass.view(*mass.shape[:2], slots.shape[1], self.block).sum((1, 3)).tolist()

    def check(self, seen: int, tokens: int) -> None:
        """Nothing is needed."""

    def copy(self) -> EvenBoundaries:
        """Itself: it never changes."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of the tokens below `known`: where blocks begin, and the newest surprisals; replaced as a whole.

    Padding that is still to come counts as negative.
    """

    starts: Ints
    recent: NDArray[np.float64]
    known: int


class SurpriseBoundaries:
    """A block begins before a token whose surprisal exceeds mean + gamma * std of the n surprisals before it.

    EM-LLM (arXiv 2407.09450, memory formation via surprise; without its refinement of boundaries). No block is shorter
    than L / 4 tokens, none longer than L. The first token has no surprisal (NaN), nor has one whose prediction was
    lost: such a token begins no block by itself and does not count. A surprisal is known once its token was read, so
    that boundaries depend on what came before only, and a forward must be shorter than the window
    (`longest_forward`).
    """

    def __init__(self, settings: BlockSettings, pad: int = 0) -> None:
        self.settings = settings
        self._told = Told(np.array([settings.sinks], dtype=np.int64), np.empty(0), -pad)

    @property
    def known(self) -> int:
        """Tokens whose surprisal was told."""
        return self._told.known

    def tell(self, surprisals: NDArray[np.float64]) -> None:
        """Take -log p of the tokens that were read next, in nats."""
        s = self.settings
        told = self._told
        known = told.known + len(surprisals)
        surprisals = surprisals[max(0, -told.known) :]
        if not len(surprisals):
            self._told = replace(told, known=known)
            return
        seen = np.concatenate((np.full(s.surprise_window, np.nan), told.recent, surprisals))
        high = surprisals > _thresholds(seen, len(surprisals), s.surprise_window, s.surprise_gamma)
        least = shortest_block(s)
        first = known - len(surprisals)
        start = int(told.starts[-1])
        found = []
        for token in range(max(first, start + least), known):
            if token - start >= s.block or (token - start >= least and high[token - first]):
                found.append(token)
                start = token
        starts = np.concatenate((told.starts, np.array(found, dtype=np.int64))) if found else told.starts
        self._told = Told(starts, seen[s.surprise_window :][-s.surprise_window :], known)

    def start(self, block: int) -> int:
        """First token of a block."""
        return int(self._told.starts[block])

    def starts(self, blocks: Ints) -> Ints:
        """First token of each of these blocks."""
        return self._told.starts[blocks]

    def before(self, token: int) -> int:
        """How many blocks end before `token`."""
        return max(0, bisect.bisect_right(self._told.starts, token) - 1)

    def tokens(self, blocks: Collection[int] | Ints) -> int:
        """How many tokens these blocks hold."""
        starts = self._told.starts
        return sum(int(starts[n + 1] - starts[n]) for n in blocks if n + 1 < len(starts))

    def behind(self, blocks: Ints) -> Ints:
        """From the first token of each to the end of all of them."""
        return self._lengths(blocks)[:, ::-1].cumsum(1)[:, ::-1]

    def _lengths(self, blocks: Ints) -> Ints:
        """Tokens of each of these blocks; 0 for -1, an empty slot."""
        return self.starts(blocks + 1) - self.starts(np.maximum(blocks, 0))

    def shares(self, mass: Float[Tensor, "C F M"], slots: Ints) -> list[list[float]]:
        """What the block in each slot got."""
        total = mass.double().sum(1).cpu().numpy()[:, ::-1].cumsum(1)
        upto = np.concatenate((np.zeros((len(total), 1)), total), 1)
        first = self.behind(slots)
        shares = np.take_along_axis(upto, first, 1) - np.take_along_axis(upto, first - self._lengths(slots), 1)
        return shares.tolist()

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError unless all that was read was told, and the forward is shorter than the window."""
        if tokens > longest_forward(self.settings):
            raise CapabilityError(
                f"blocks(cut=surprise): a forward over {tokens} tokens with window={self.settings.window}; at most "
                f"{longest_forward(self.settings)}, because blocks are cut before their tokens leave the window"
            )
        if self.known != seen:
            raise CapabilityError(
                f"blocks(cut=surprise): {seen} tokens were read and the surprisal of {self.known} is known; read with "
                "everlong.Session, or give them with cache.blocks.tell(-log p) after each forward"
            )

    def copy(self) -> SurpriseBoundaries:
        """The same, independent."""
        other = SurpriseBoundaries(self.settings)
        other._told = self._told
        return other

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on."""
        told = self._told
        known = torch.tensor([told.known])
        return {"starts": torch.from_numpy(told.starts), "recent": torch.from_numpy(told.recent), "known": known}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take a saved state."""
        starts, recent = (tensors[name].cpu().numpy().copy() for name in ("starts", "recent"))
        self._told = Told(starts, recent, int(tensors["known"]))


def make_cuts(settings: BlockSettings, pad: int = 0) -> BlockBoundaries:
    """Where blocks begin in a row that holds nothing yet, behind `pad` tokens of padding."""
    return (
        SurpriseBoundaries(settings, pad)
        if settings.cut == "surprise"
        else EvenBoundaries(settings.sinks, settings.block)
    )


def within(cuts: BlockBoundaries, first: int, end: int) -> range:
    """The blocks that hold no token but `first` .. `end - 1`."""
    begin = cuts.before(first)
    begin += cuts.start(begin) < first
    return range(begin, max(begin, cuts.before(end)))


def touching(cuts: BlockBoundaries, first: int, end: int) -> range:
    """The blocks that hold a token of `first` .. `end - 1`, as far as they are known."""
    end = min(end, cuts.known)
    return range(cuts.before(first), cuts.before(end - 1) + 1) if max(first, cuts.start(0)) < end else range(0)


def shortest_block(settings: BlockSettings) -> int:
    """Tokens of the shortest block."""
    return max(1, settings.block // 4) if settings.cut == "surprise" else settings.block


def longest_forward(settings: BlockSettings) -> int:
    """Tokens that one forward takes at most: with more, some would leave the window before they are known."""
    return settings.window - 1 if settings.cut == "surprise" else ENDLESS


def _thresholds(seen: NDArray[np.float64], tokens: int, n: int, gamma: float) -> Any:
    """mean + gamma * std of the `n` values before each of the last `tokens`; NaN does not count, infinite under two."""
    before = np.lib.stride_tricks.sliding_window_view(seen[len(seen) - tokens - n : -1], n)
    counted = ~np.isnan(before)
    count = counted.sum(1)
    mean = np.where(counted, before, 0).sum(1) / np.maximum(count, 1)
    square = np.where(counted, (before - mean[:, None]) ** 2, 0).sum(1) / np.maximum(count, 1)
    return np.where(count >= 2, mean + gamma * np.sqrt(square), np.inf)
