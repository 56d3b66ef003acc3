"""The measurements: everlong and its peers in turns, round by round, in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from everlong.errors import CapabilityError
from everlong.evaluate.baseline import stock_copy
from everlong.methods.base import Method
from everlong.methods.blocks.layer import LayerMemory
from everlong.models.load import Loaded
from everlong.report.speed.peers import Make
from everlong.report.speed.profile import Stopwatch, profiled
from everlong.report.speed.readers import EverlongReader, Reader
from everlong.report.speed.rows import SpeedRow, row
from everlong.report.speed.timed import Times, timed
from everlong.session.session import Session

WHATS = ("decode", "choice", "read", "resume")
"""In the order in which they are measured: what leaves a context as it was comes first."""
DECODED = 8
"""Tokens of a decoded sample: as many as blocks are chosen for at once."""
_WARM_UP = 2
_NAME = "bench"


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured."""

    chunk: int = 512
    repeats: int = 20
    profile: bool = False


class Bench:
    """A model and its peers, measured at one context after another."""

    def __init__(self, loaded: Loaded, peers: dict[str, Make], plan: BenchSettings) -> None:
        self._loaded = loaded
        self._peers = peers
        self._plan = plan
        self._ids = _ids(loaded)
        self._stock = stock_copy(loaded.model)

    def rows(self, context: int, methods: Sequence[tuple[Method, int]], whats: Sequence[str]) -> Iterator[SpeedRow]:
        """The rows of one context; each method is given with the tokens that it reads before."""
        in_turn = [what for what in WHATS if what in whats]
        with ExitStack() as stack:
            others: list[Reader] = []
            if {"decode", "read"} & set(whats):
                room = self._plan.chunk + DECODED + 2
                made = (make(self._cycle(context), self._plan.chunk, room) for make in self._peers.values())
                others = [stack.enter_context(closing(reader)) for reader in made]
            for method, before in methods:
                with closing(EverlongReader(self._loaded, method, self._cycle(before), self._plan.chunk)) as own:
                    for what in in_turn:
                        yield self._row(what, method, own, others, context)

    def _row(self, what: str, method: Method, own: EverlongReader, others: Sequence[Reader], context: int) -> SpeedRow:
        if what == "resume":
            return self._resumed(method, context)
        if what == "choice":
            return self._choice(method, own, context)
        tokens = DECODED if what == "decode" else self._plan.chunk
        taken = self._in_turns(what, tokens, [own, *others])
        found = row(what, method.name, context, tokens, taken)
        if self._plan.profile and what == "decode":
            found = replace(found, profile=profiled(own, self._loaded.model, self._new(0, DECODED), self._plan.repeats))
        return found

    def _in_turns(self, what: str, tokens: int, readers: Sequence[Reader]) -> dict[str, list[Times]]:
        """What each reader took in each round."""
        taken: dict[str, list[Times]] = {reader.name: [] for reader in readers}
        for n in range(_WARM_UP + self._plan.repeats):
            new = self._new(n, tokens)
            for reader in readers:
                reader.back()
                if what == "decode":
                    reader.decode(new[:1])
                work: Callable[[Sequence[int]], Any] = reader.decode if what == "decode" else reader.read
                taken[reader.name].append(timed(lambda work=work, new=new: work(new)))
        return {name: times[_WARM_UP:] for name, times in taken.items()}

    def _choice(self, method: Method, own: EverlongReader, context: int) -> SpeedRow:
        """What choosing blocks takes of a decoded token."""
        if own.session.runner.blocks is None:
            raise CapabilityError(
                f"choice: {method.name} chooses no blocks; use --method blocks, or leave it out of --what"
            )
        taken = []
        for n in range(_WARM_UP + self._plan.repeats):
            watch = Stopwatch()
            with watch.timing(LayerMemory, "choose", "choice"):
                own.decode(self._new(n, DECODED))
            taken.append(watch.times["choice"])
        return row("choice", method.name, context, DECODED, {own.name: taken[_WARM_UP:]})

    def _resumed(self, method: Method, context: int) -> SpeedRow:
        """Opening a kept session and reading one token, by a model that is loaded and not attached yet."""
        taken = []
        with tempfile.TemporaryDirectory() as store:
            with Session(self._loaded, method, chunk=self._plan.chunk, store=store, name=_NAME) as kept:
                kept.feed(self._cycle(context))
            for _ in range(1 + self._plan.repeats):
                fresh = replace(self._loaded, model=stock_copy(self._stock))
                opened: list[Session] = []
                taken.append(
                    timed(lambda store=store, fresh=fresh, opened=opened: opened.append(_opened(store, fresh)))
                )
                opened[0].close()
        return row("resume", method.name, context, 1, {"everlong": taken[1:]})

    def _cycle(self, count: int) -> list[int]:
        """`count` ids: the same ones over and over."""
        return self._ids.repeat(count // len(self._ids) + 1)[:count].tolist()

    def _new(self, n: int, count: int) -> list[int]:
        """The ids of round `n`."""
        return self._ids.roll(-n).repeat(count // len(self._ids) + 1)[:count].tolist()


def _opened(store: str, loaded: Loaded) -> Session:
    session = Session.open(store, _NAME, loaded)
    session.feed([1], answering=True)
    return session


def _ids(loaded: Loaded) -> torch.Tensor:
    """Ids without meaning; those of control tokens, which come first in most vocabularies, are few among them."""
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    return torch.randint(vocabulary, (4096,), generator=torch.Generator().manual_seed(0))
