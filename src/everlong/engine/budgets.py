"""A session's budgets at work: its input cut where stored blocks must give way, and blocks given up that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from everlong.engine.runner import StreamRunner
from everlong.errors import ConfigError
from everlong.methods.base import Method
from everlong.methods.blocks.room import BlockBudget
from everlong.storage.budget import Budget


def given(method: Method, kept: bool, host: int | str | None, disk: int | str | None, when_full: str) -> Budget:
    """The budget that was given; ConfigError where it would have no effect."""
    budget = Budget.given(host, disk, when_full)
    if budget and not method.answers:
        raise ConfigError(f"{'/'.join(budget.as_dict())} budget: {method.name} stores nothing; use everlong.Blocks")
    if budget.disk is not None and not kept:
        raise ConfigError(f"disk_budget={budget.disk:,}: nothing is written to the disk; give a store, or leave it out")
    return budget


class Budgets:
    """The budget of one session that reads with `reader`, or with a fork of it.

    `reuse`, where it is asked for, lets the room of blocks that were given up be used on the disk too: it makes a
    checkpoint, which says that they are gone.
    """

    def __init__(self, budget: Budget, reader: StreamRunner, chunk: int) -> None:
        self.budget = budget
        self.room: BlockBudget | None = None
        """What the budget leaves; None where there is no limit."""
        if reader.blocks is not None and budget:
            self.room = BlockBudget.of(reader.blocks, budget, min(chunk, reader.chunk_limit), reader.planned_bytes)

    def parts(
        self, reader: StreamRunner, ids: Tensor, answering: bool, asked: bool, reuse: Callable[[], None]
    ) -> Iterator[Tensor]:
        """The ids of a chunk, cut where stored blocks must give way; BudgetError, before the first, if none may.

        Text that is not `asked` (no prompt and no answer) leaves room for questions where nothing gives way.
        """
        room = self.room
        waits = False
        while room is not None and reader.blocks is not None:
            memory = reader.blocks
            spare = 0 if asked else room.spare(reader.blocks)
            fit = room.fitting(memory, reader.seen_tokens, len(ids), answering, spare)
            # Before others are written over them a checkpoint says that the blocks are gone: one for all that gave way.
            if fit and waits:
                reuse()
                waits = False
            if fit == len(ids):
                break
            if fit and self.budget.when_full != "refuse":
                yield ids[:fit]
                ids = ids[fit:]
            elif not (waits := room.give_up(memory)):
                raise room.refusal(memory, reader.seen_tokens, len(ids))
        yield ids

    def make_room(
        self, reader: StreamRunner, ids: Tensor, answering: bool, asked: bool, reuse: Callable[[], None]
    ) -> None:
        """Let stored blocks give way until these ids can be read at once.

        BudgetError, before any gives way, where they could not be if all did that may.
        """
        room = self.room
        memory = reader.blocks
        if room is None or memory is None:
            return
        told = reader.seen_tokens, len(ids)
        spare = 0 if asked else room.spare(memory)
        if not room.could_fit(memory, *told, answering, spare):
            raise room.refusal(memory, *told)
        gave_way = False
        while room.fitting(memory, *told, answering, spare) < len(ids):
            if not room.give_up(memory):
                raise room.refusal(memory, *told)
            gave_way = True
        if gave_way:
            reuse()

    def shrink(self, reader: StreamRunner, reuse: Callable[[], None]) -> None:
        """Let blocks that were restored give way until they fit the budgets; BudgetError if none may."""
        if self.room is None or reader.blocks is None or not reader.blocks.rows:
            return
        memory = reader.blocks
        row = reader.blocks.rows[0]
        room = self.room = self.room.restored(memory)
        gone = len(row.gone)
        while (tier := room.over(row.store, room.held(memory), reader.seen_tokens)) is not None:
            if room.give_up(memory):
                continue
            if tier == "disk":
                break
            raise room.refusal(memory, reader.seen_tokens, 0)
        if len(row.gone) > gone:
            reuse()


def planned_bytes(reader: StreamRunner, tokens: int, chunk: int) -> dict[str, int]:
    """Bytes by tier that a kept stream of so many tokens takes at most, fed `chunk` at once."""
    device = reader.planned_bytes
    if reader.blocks is None:
        return {"device": device, "host": 0, "disk": 2 * device + 4 * tokens}
    room = BlockBudget.of(reader.blocks, Budget(), chunk, device)
    return {"device": device} | room.planned_bytes(tokens, room.spare(reader.blocks))
