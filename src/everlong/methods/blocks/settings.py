"""blocks: InfLLM. What leaves the window is kept in blocks, and the `top_k` most relevant come back, without training.

A token sees the first `sinks` tokens, the newest `window` tokens, and `top_k` blocks of `block` tokens, chosen by
comparing its query (or the mean query of the tokens before its cell) with a digest of each block: the mean key of the
tokens that received most attention while they were in the window (InfLLM, arXiv 2402.04617, section 3). The paper
puts everything far at one distance, W - 1 (`positions="far"`); the default keeps chosen blocks in their order right
behind the window, which measured better. Either way positions stay within what the model was trained on. The authors'
choice for a chunk sees the chunk itself, and their far mask shows up to a chunk of tokens twice; here what a token
sees depends on its own index, and on whether it is read or answers, never on how the input was cut.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everlong.errors import ConfigError
from everlong.methods.base import Method
from everlong.methods.blocks.fields import BlockSettings
from everlong.storage.known import STORES

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlong.methods.blocks.memory import BlockMemory
    from everlong.methods.blocks.recall.index import MakeRecall
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store


@dataclass(frozen=True)
class Blocks(BlockSettings, Method):
    """Block memory with retrieval."""

    name = "blocks"
    answers = True

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; `stored_in` only where it was given, so that what was written without it goes on."""
        fields = super().as_dict()
        if self.stored_in == "auto":
            del fields["stored_in"]
        return fields

    def __str__(self) -> str:
        """The sizes, and what is not as it is by default."""
        sizes = ("sinks", "window", "block", "top_k")
        default = {f.name: f.default for f in dataclasses.fields(self)}
        shown = {k: v for k, v in self.as_dict().items() if k in sizes or v != default[k]}
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in shown.items())})"

    def layout(self) -> tuple[int, int | None]:
        """What is kept beside the blocks."""
        return self.sinks, self.window

    def stream_memory(
        self,
        plan: ModelLayout,
        parameters: MemoryParameters | None,
        make_store: Callable[[], Store],
        make_recall: MakeRecall,
    ) -> BlockMemory:
        """Block memory; CapabilityError for a model whose layers it cannot serve."""
        from everlong.methods.blocks.memory import BlockMemory

        return BlockMemory(self, plan, self._placed(make_store), make_recall)

    @property
    def kept_store(self) -> str:
        """The store that was asked for."""
        return "disk" if self.stored_in == "auto" else self.stored_in

    def in_memory(self) -> Blocks:
        """The same with blocks in host memory."""
        return dataclasses.replace(self, stored_in="auto")

    def _placed(self, make_store: Callable[[], Store]) -> Callable[[], Store]:
        """What makes the store that was asked for; ConfigError where that is one of kept sessions, and this is none."""
        if self.stored_in == "auto" or make_store().name == self.stored_in:
            return make_store
        named = STORES.find(self.stored_in)
        if named.lies_on_disk:
            raise ConfigError(
                f"stored_in={self.stored_in}: has its blocks in the files of a kept session, and this one is not kept; "
                "keep it in a folder (store=FOLDER), or leave stored_in out"
            )
        return named
