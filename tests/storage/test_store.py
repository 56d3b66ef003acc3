"""What may be asked of every store, wherever its blocks lie."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import everlong
from everlong.errors import CapabilityError
from everlong.storage.base import HostStore, Store
from everlong.storage.codecs.numbers import Native
from everlong.storage.disk import DiskStore

CODEC = Native(2, 4, 8, 8, torch.float32)
NOTHING = np.empty(0, dtype=np.int64)
CONCRETE = {"HostStore", "DiskStore", "BlockMemory", "RecurrentMemory"}


def filled(store: Store) -> Store:
    store.add(0, CODEC)
    k, v = torch.randn(2, 3, 2, 4, 8)
    store.put(0, 0, k, v)
    return store


@pytest.mark.parametrize(
    ("store", "on_disk", "writable"), [(HostStore(), False, True), (DiskStore([], False), True, False)]
)
def test_a_store_says_where_its_blocks_lie(store, on_disk, writable):
    assert isinstance(store, Store)
    assert (store.lies_on_disk, store.writable) == (on_disk, writable)
    assert (store.resident is None) is not on_disk
    filled(store)
    assert store.disk_blocks == store.disk_bytes == 0
    assert store.nbytes > 0


def test_blocks_in_host_memory_are_saved_and_taken_back():
    store, other = filled(HostStore()), HostStore()
    other.add(0, CODEC)
    other.restore(0, store.records(0, 3), NOTHING)
    assert torch.equal(other.records(0, 3), store.records(0, 3))
    assert store.kept_digests({0: 4}, torch.float32, ()) is None


def test_blocks_in_files_are_in_no_saved_state():
    store = filled(DiskStore([], writable=False))
    with pytest.raises(CapabilityError, match=r"state: 3 blocks of layer 0 lie in files.*checkpoint\(\)"):
        store.records(0, 3)
    with pytest.raises(CapabilityError, match=r"load_state: the state holds 3 blocks of layer 0.*without a store"):
        store.restore(0, filled(HostStore()).records(0, 3), NOTHING)


def test_a_store_keeps_the_digests_of_what_it_has_rows_of():
    kept = DiskStore([], writable=False).kept_digests({0: 4}, torch.float32, ())
    assert (kept.gone.tolist(), kept.rows, sorted(kept.loads)) == ([], 0, [0])
    assert kept.loads[0]().shape == (0, 4)


def test_nobody_asks_a_store_or_a_memory_for_its_class():
    asked = []
    for path in Path(everlong.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked += [
                    path.name for name in ast.walk(node.args[1]) if isinstance(name, ast.Name) and name.id in CONCRETE
                ]
    assert asked == []
