"""Which of the recorded operations are done where, and the room for what they give.

What depends on the token's id and place alone (its embedding, cosines and sines) is done in torch, once for a token;
what follows from it is computed by the extension, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from everlong.hooks.program.record import AttentionCall, NotRecorded, Operation

ALIGNED = 16
"""Buffers begin at multiples of so many numbers."""

_IN_TORCH = {"embedding", "arange", "matmul", "bmm", "mm", "cos", "sin", "floor", "log", "log1p", "repeat_interleave"}
"""Done in torch, with all that they are made of."""


@dataclass(eq=False)
class HostCall:
    """An operation done in torch for each token: `args` hold the places of the tensors that are made before it."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int


@dataclass(frozen=True)
class HostPlace:
    """Where a tensor of the host stands among those of a token."""

    at: int


class Buffers:
    """Room in one float32 tensor for storages, while they are used."""

    def __init__(self) -> None:
        self.numbers = 0
        self.at: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._sizes: dict[int, int] = {}

    def take(self, x: Tensor) -> None:
        """Give room to the storage of `x`."""
        key = storage_of(x)
        if key in self.at:
            return
        count = x.untyped_storage().nbytes() // x.element_size()
        size = -(-count // ALIGNED) * ALIGNED
        free = self._free.get(size)
        self._sizes[key] = size
        self.at[key] = free.pop() if free else self.numbers
        if self.at[key] == self.numbers:
            self.numbers += size

    def give(self, key: int) -> None:
        """Let others have the room of a storage."""
        if key in self._sizes:
            self._free.setdefault(self._sizes.pop(key), []).append(self.at[key])


class Placement:
    """The operations of one forward, sorted: `host` in torch, `native` by the extension; views need no operation."""

    def __init__(self, decoder: nn.Module, operations: list[Operation], inputs: list[Tensor], out: Tensor) -> None:
        self.constants = {storage_of(x) for x in (*decoder.parameters(), *decoder.buffers())}
        self.places = {id(x): n for n, x in enumerate(inputs)}
        self.buffers = Buffers()
        self.given: dict[int, Tensor] = {}
        """What torch makes, by storage."""
        self.host: list[HostCall] = []
        self.native: list[Operation] = []
        self.operations = operations
        self._sort(out)

    def _sort(self, out: Tensor) -> None:
        last = {storage_of(x): n for n, op in enumerate(self.operations) for x in tensors_in((op.args, op.kwargs))}
        last[storage_of(out)] = len(self.operations)
        ends: dict[int, list[int]] = {}
        for key, n in last.items():
            ends.setdefault(n, []).append(key)
        first = self._made_in_torch()
        for n, op in enumerate(self.operations):
            given = tensors_in((op.args, op.kwargs))
            if id(op) in first:
                self._on_host(op, given)
            elif not _is_view(op, given):
                self.native.append(op)
                for x in tensors_in(op.out):
                    self.buffers.take(x)
            for key in ends.get(n, ()):
                self.buffers.give(key)

    def _made_in_torch(self) -> set[int]:
        """The operations that only torch does, and those whose results they need."""
        found: set[int] = set()
        needed: set[int] = set()
        for op in reversed(self.operations):
            given = tensors_in((op.args, op.kwargs))
            whole = any(not x.is_floating_point() for x in given)
            if whole or short_name(op.name) in _IN_TORCH or any(id(x) in needed for x in tensors_in(op.out)):
                found.add(id(op))
                needed.update(id(x) for x in given)
        return found

    def _on_host(self, op: Operation, given: list[Tensor]) -> None:
        known = all(id(x) in self.places or storage_of(x) in self.constants for x in given)
        if op.call is None or not known or not isinstance(op.out, Tensor):
            raise NotRecorded(f"{op.name}: follows from more than the token's id and place")
        args, kwargs = tree_map_only(Tensor, self._placed, (op.args, op.kwargs))
        place = self.places.setdefault(id(op.out), len(self.places))
        self.given.setdefault(storage_of(op.out), op.out)
        self.host.append(HostCall(op.call, args, kwargs, place))

    def _placed(self, x: Tensor) -> Any:
        return HostPlace(self.places[id(x)]) if id(x) in self.places else x


def short_name(name: str) -> str:
    """The name of an operation without its namespace and overload."""
    return name.removeprefix("aten.").split(".")[0]


def storage_of(x: Tensor) -> int:
    """Which storage a tensor looks at."""
    return x.untyped_storage().data_ptr()


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors among arguments or results."""
    found = tree_leaves(tree)
    calls = [x for x in found if isinstance(x, AttentionCall)]
    return [x for x in found if isinstance(x, Tensor)] + [x for c in calls for x in (c.q, c.k, c.v)]


def _is_view(op: Operation, given: list[Tensor]) -> bool:
    """Whether it only looks at what it was given; NotRecorded for one that changes it."""
    schema = getattr(op.call, "_schema", None)
    if schema is not None and schema.is_mutable:
        raise NotRecorded(f"{op.name} writes to what it was given")
    storages = {storage_of(x) for x in given}
    return bool(given) and all(storage_of(x) in storages for x in tensors_in(op.out))
