"""counted: the store of kept sessions, which counts how often each block was read."""

from collections import Counter
from typing import ClassVar

from everlong.storage.disk import DiskStore


class Counted(DiskStore):
    """Rows in files, as ever."""

    name = "counted"
    reads: ClassVar[Counter] = Counter()

    def record(self, layer, block):
        """A record, counted."""
        self.reads[block] += 1
        return super().record(layer, block)
