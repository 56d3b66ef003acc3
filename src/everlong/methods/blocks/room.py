"""Room for blocks: how many fit the budgets, before which token some must be given up, and which.

What is given up depends on the indices of tokens and on the session's settings, never on how the input was cut: it is
decided where a cell begins whose new blocks would not fit, and the input is cut there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from everlong.errors import BudgetError, ConfigError
from everlong.methods.blocks import index, layout
from everlong.methods.blocks.boundaries import make_cuts, shortest_block
from everlong.methods.blocks.cells import Cursor, cells
from everlong.methods.blocks.memory import BlockMemory
from everlong.methods.blocks.recall import index as recalls
from everlong.methods.blocks.recall.files import CHECKSUM_BYTES
from everlong.storage.base import Store
from everlong.storage.budget import Budget
from everlong.storage.disk import DiskStore
from everlong.storage.growable_rows import allocated_rows
from everlong.storage.record_cache import DEFAULT_BYTES
from everlong.storage.write_behind import QUEUED_ROWS

BATCH = 8
"""One block in so many is given up at a time."""
ASKING_CELLS = 3
"""Under `refuse`, reading leaves room for so many cells of `exec_chunk` tokens to questions and answers."""
STATES = 3
"""Two checkpoints are kept, and one may be on its way."""
STATE_BYTES = 48 * 2**10
STATE_BYTES_PER_LAYER = 2**12
STATE_BYTES_PER_BLOCK = 24
"""What a saved state takes beside its tensors of bounded size, and for each block, dropped ones included."""


@dataclass(frozen=True)
class BlockBudget:
    """The budget of one stream and the sizes of what counts: a stored row, its digests, the queue, the state."""

    budget: Budget
    block_tokens: int
    record_bytes: int
    row_bytes: int
    digest_bytes: int
    recall_bytes: int
    queue_rows: int
    state_bytes: int

    @classmethod
    def of(cls, memory: BlockMemory, budget: Budget, chunk: int, planned_bytes: int) -> BlockBudget:
        """The room of a memory that is fed at most `chunk` tokens at once, and whose state takes `planned_bytes`.

        ConfigError for a budget in which it could not work.
        """
        s = memory.settings
        records, rows = layout.block_bytes(s, memory.plan)
        cell = max(s.exec_chunk, s.choose_every)
        shortest = shortest_block(s)
        queue = -(-(chunk + cell) // shortest) + 1 + QUEUED_ROWS + 1
        state = planned_bytes + STATE_BYTES + STATE_BYTES_PER_LAYER * len(memory.layers)
        digests = layout.digest_bytes(s, memory.plan, memory.digest_dtype)
        room = cls(budget, shortest, records, rows, digests, _recall_bytes(memory), queue, state)
        room._check(memory, s.top_k + -(-cell // shortest) + room.spare(memory), cell)
        return room

    def _check(self, memory: BlockMemory, blocks: int, tokens: int) -> None:
        store = memory.rows[0].store if memory.rows else memory.make_store()
        needs = self.host_bytes(store, blocks, blocks * self.block_tokens), self.disk_bytes(store, blocks, tokens)
        for tier, need in zip(("host", "disk"), needs, strict=True):
            limit = self.budget.as_dict().get(tier)
            if limit is not None and limit < need:
                raise ConfigError(
                    f"{tier}_budget={limit:,}: must be at least {need:,} bytes for {memory.settings.top_k} blocks that "
                    "come back and what is on its way; give more, a smaller chunk, or a smaller codec (int8, int4)"
                )

    def restored(self, memory: BlockMemory) -> BlockBudget:
        """The same for a stream that was restored since, whose digests may be wider than those of a new one."""
        return replace(self, digest_bytes=layout.digest_bytes(memory.settings, memory.plan, memory.digest_dtype))

    def host_bytes(self, store: Store, blocks: int, tokens: int) -> int:
        """Bytes of host memory that so many blocks take at most: the index, records, the queue for the disk.

        Of `tokens` tokens the recall rows stay, also of blocks that gave way.
        """
        digests = allocated_rows(blocks, index.FIRST_SLAB, index.LARGEST_SLAB) * self.digest_bytes
        stored = store.host_bytes(blocks, self.record_bytes, self.row_bytes)
        if store.lies_on_disk:
            return digests + stored + self.queue_rows * (self.row_bytes + self.recall_bytes)
        recall = allocated_rows(tokens // self.block_tokens, recalls.FIRST_SLAB, recalls.LARGEST_SLAB)
        return digests + stored + recall * self.recall_bytes

    def disk_bytes(self, store: Store, blocks: int, tokens: int) -> int:
        """Bytes on the disk that so many blocks and ids take at most, while a third state is written beside the two."""
        if not store.lies_on_disk or not store.writable:
            return 0
        state = self.state_bytes + STATE_BYTES_PER_BLOCK * (blocks + tokens // self.block_tokens)
        recall = self.recall_bytes * -(-tokens // self.block_tokens)
        return blocks * (self.row_bytes + self.digest_bytes + 4) + 4 * tokens + recall + STATES * state

    def planned_bytes(self, tokens: int, spare: int) -> dict[str, int]:
        """Bytes by tier that a stream of so many tokens takes, its blocks being on the disk, with `spare` to go."""
        store = DiskStore([])
        blocks = tokens // self.block_tokens + spare
        return {"host": self.host_bytes(store, blocks, tokens), "disk": self.disk_bytes(store, blocks, tokens)}

    def over(self, store: Store, blocks: int, tokens: int) -> str | None:
        """The tier whose budget so many blocks and tokens would pass."""
        host = self.budget.host
        disk = self.budget.disk
        if host is not None and self.host_bytes(store, blocks, tokens) > host:
            return "host"
        return "disk" if disk is not None and self.disk_bytes(store, blocks, tokens) > disk else None

    def fitting(self, memory: BlockMemory, seen: int, tokens: int, answering: bool, spare: int = 0) -> int:
        """How many of the next `tokens` tokens can be read, with `spare` blocks to go, before some must be given up."""
        fit, wanted = self._fitting(memory, seen, tokens, answering, spare, 0)
        store = memory.rows[0].store if memory.rows else memory.make_store()
        if store.resident is not None:
            used = self.host_bytes(store, wanted, seen + tokens)
            rest = DEFAULT_BYTES if self.budget.host is None else self.budget.host - used
            store.resident.shrink(max(0, rest))
        return fit

    def could_fit(self, memory: BlockMemory, seen: int, tokens: int, answering: bool, spare: int = 0) -> bool:
        """Whether the next tokens could be read at once if all blocks gave way that may; none does."""
        removable = len(self._forgotten(memory)) + len(self._removable(memory)) if memory.rows else 0
        return self._fitting(memory, seen, tokens, answering, spare, removable)[0] == tokens

    def _fitting(
        self, memory: BlockMemory, seen: int, tokens: int, answering: bool, spare: int, freed: int
    ) -> tuple[int, int]:
        """How many tokens could be read, and the blocks that would be held then, if `freed` blocks had given way."""
        held = self.held(memory) - freed
        s = memory.settings
        wanted = held
        fit = tokens
        store = memory.make_store()
        gone = freed
        cuts = make_cuts(s)
        cursor = Cursor()
        if memory.rows:
            row = memory.rows[0]
            store = row.store
            gone += len(row.gone)
            cuts = row.cuts
            cursor = row.done.cursor
        for cell in cells(s, cuts, cursor, seen, seen + tokens, answering):
            longest = s.choose_every if answering else s.exec_chunk
            more = cell.sealed - gone
            if more > held and self.over(store, more + spare, cell.first + longest) is not None:
                fit = cell.first - seen
                break
            wanted = max(wanted, more)
        return fit, wanted

    @staticmethod
    def held(memory: BlockMemory) -> int:
        """Blocks that take room now."""
        return memory.rows[0].sealed - len(memory.rows[0].gone) if memory.rows else 0

    def spare(self, memory: BlockMemory) -> int:
        """Blocks to be left free for questions and answers while other text is read: only if nothing gives way."""
        s = memory.settings
        return -(-ASKING_CELLS * s.exec_chunk // shortest_block(s)) if self.budget.when_full == "refuse" else 0

    def give_up(self, memory: BlockMemory) -> bool:
        """Give up dropped blocks that still take room, or else some that the policy names; whether there were any."""
        if not memory.rows:
            return False
        if forgotten := self._forgotten(memory):
            memory.rows[0].give_up(forgotten)
            return True
        victims = self._victims(memory)
        if victims:
            memory.rows[0].give_up(victims, ids=self.budget.when_full == "ids")
        return bool(victims)

    @staticmethod
    def _forgotten(memory: BlockMemory) -> list[int]:
        row = memory.rows[0]
        return sorted(n for n in row.dropped.difference(row.gone.tolist()) if n < row.sealed)

    def _victims(self, memory: BlockMemory) -> list[int]:
        """The oldest blocks; or of the older half those that were chosen least often, the oldest of these first."""
        row = memory.rows[0]
        count = max(1, self.held(memory) // BATCH)
        found = self._removable(memory)
        if self.budget.when_full == "least-used":
            older = found[: max(count, len(found) // 2)]
            found = sorted(older, key=lambda n: (row.used[n], n))
        return sorted(found[:count])

    def _removable(self, memory: BlockMemory) -> list[int]:
        """The blocks that may be given up, beside those that are dropped already."""
        if self.budget.when_full == "refuse":
            return []
        row = memory.rows[0]
        spared = row.dropped | row.kept | row.pinned | row.bare
        return [n for n in range(row.sealed) if n not in spared]

    def refusal(self, memory: BlockMemory, seen: int, tokens: int) -> BudgetError:
        """Why `tokens` more cannot be read; 0: why what is stored cannot be held."""
        store = memory.rows[0].store if memory.rows else memory.make_store()
        held = self.held(memory)
        s = memory.settings
        more = (
            self.spare(memory) - (-(tokens + max(s.exec_chunk, s.choose_every)) // shortest_block(s)) if tokens else 0
        )
        tier = self.over(store, held + more, seen + tokens) or "host"
        limit = self.budget.as_dict().get(tier, 0)
        stored = f"the {held * self.block_tokens:,} tokens that are stored"
        what = f"no room for {tokens:,} more beside {stored}" if tokens else f"no room for {stored}"
        hint = "when_full=oldest or least-used" if self.budget.when_full == "refuse" else "keep and pin less"
        return BudgetError(f"{tier}_budget={limit:,}: {what}; give a larger {tier}_budget, or {hint}")


def _recall_bytes(memory: BlockMemory) -> int:
    """Bytes of one block in the recall index; 0 without one."""
    rows = memory.rows
    recall = rows[0].recall if rows else memory.make_recall(memory.settings, memory.plan, None)
    return 0 if recall is None else recall.row_bytes + CHECKSUM_BYTES
