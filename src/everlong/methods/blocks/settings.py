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
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from everlong.errors import ConfigError
from everlong.methods.base import Method, at_least, check_choices
from everlong.methods.sinks import SINKS_HELP
from everlong.methods.window import WINDOW_HELP
from everlong.storage.known import CODECS

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlong.methods.blocks.memory import BlockMemory
    from everlong.methods.blocks.recall.index import MakeRecall
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store

HELP = {
    "block": "tokens per block",
    "top_k": "blocks that come back for a choice",
    "repr_topk": "tokens whose mean key stands for a block, per query head",
    "exec_chunk": "while reading, one choice for so many tokens",
    "pool": "that choice is made by the mean query of so many tokens before them",
    "choose_every": "while answering, one choice for so many tokens",
    "positions": "where chosen blocks stand: far (all at distance window - 1), ordered (in order, right behind the"
    " window) or true",
    "choice": "causal, or paper: by the mean query of the tokens themselves, which see their future so",
    "digest": "what stands for a block: mean (of its most attended keys) or bounds (the range of each channel)",
    "per_head": "whether each kv head chooses for itself",
    "neighbours": "blocks taken on either side of a chosen one, within top_k",
    "recall": "what comes back for a question: question (what retrieval heads and the question's words choose, for all"
    " layers, beside each layer's own choice) or layer (InfLLM's rule alone)",
    "recall_heads": "retrieval heads that vote (everlong calibrate)",
    "recall_slots": "of the top_k blocks, those that the vote for the question fills",
    "keep": "what is kept of what left the window: blocks, or ids (and the recall index) only: far smaller; questions"
    " are then answered by reading passages again",
    "codec": "how blocks are stored: native, bfloat16, int8, int4, or a codec of another package",
    "cut": "where blocks begin: even (each of block tokens) or surprise (before a token that surprises the model; block"
    " is then the longest, a quarter of it the shortest)",
    "surprise_gamma": "standard deviations above the mean from which a token surprises",
    "surprise_window": "mean and deviation are those of the surprisals of so many tokens before it",
    "resident": "blocks of a layer that stay in host memory once they came back from the disk (None: as the host budget"
    " leaves room); no number depends on it",
    "evict": "which of them leaves first: lru (the least recently used) or score (each use adds 1)",
    "score_decay": "the share of a score that each choice of the layer leaves, with evict=score",
}


@dataclass(frozen=True)
class Blocks(Method):
    """Block memory with retrieval."""

    name = "blocks"
    answers = True
    sinks: int = field(default=64, metadata={"help": SINKS_HELP})
    window: int = field(default=1024, metadata={"help": WINDOW_HELP})
    block: int = field(default=128, metadata={"help": HELP["block"]})
    top_k: int = field(default=8, metadata={"help": HELP["top_k"]})
    repr_topk: int = field(default=4, metadata={"help": HELP["repr_topk"]})
    exec_chunk: int = field(default=512, metadata={"help": HELP["exec_chunk"]})
    pool: int = field(default=64, metadata={"help": HELP["pool"]})
    choose_every: int = field(default=8, metadata={"help": HELP["choose_every"]})
    positions: Literal["far", "ordered", "true"] = field(default="ordered", metadata={"help": HELP["positions"]})
    choice: Literal["causal", "paper"] = field(default="causal", metadata={"help": HELP["choice"]})
    digest: Literal["mean", "bounds"] = field(default="bounds", metadata={"help": HELP["digest"]})
    per_head: bool = field(default=False, metadata={"help": HELP["per_head"]})
    neighbours: int = field(default=0, metadata={"help": HELP["neighbours"]})
    recall: Literal["question", "layer"] = field(default="question", metadata={"help": HELP["recall"]})
    recall_heads: int = field(default=8, metadata={"help": HELP["recall_heads"]})
    recall_slots: int = field(default=4, metadata={"help": HELP["recall_slots"]})
    keep: Literal["blocks", "ids"] = field(default="blocks", metadata={"help": HELP["keep"]})
    codec: str = field(default="int8", metadata={"help": HELP["codec"]})
    cut: Literal["even", "surprise"] = field(default="even", metadata={"help": HELP["cut"]})
    surprise_gamma: float = field(default=1.0, metadata={"help": HELP["surprise_gamma"]})
    surprise_window: int = field(default=128, metadata={"help": HELP["surprise_window"]})
    resident: int | None = field(default=None, metadata={"help": HELP["resident"]})
    evict: Literal["lru", "score"] = field(default="lru", metadata={"help": HELP["evict"]})
    score_decay: float = field(default=0.9, metadata={"help": HELP["score_decay"]})

    def __post_init__(self) -> None:
        at_least(0, sinks=self.sinks, why=SINKS_HELP)
        at_least(1, window=self.window, why=WINDOW_HELP)
        for name in ("block", "top_k", "repr_topk", "exec_chunk", "pool", "choose_every"):
            at_least(1, why=HELP[name], **{name: getattr(self, name)})
        at_least(0, neighbours=self.neighbours, why=HELP["neighbours"])
        at_least(1, recall_heads=self.recall_heads, why=HELP["recall_heads"])
        at_least(0, recall_slots=self.recall_slots, why=HELP["recall_slots"])
        if self.resident is not None:
            at_least(1, resident=self.resident, why=HELP["resident"])
        if not isinstance(self.score_decay, int | float) or not 0 < self.score_decay <= 1:
            raise ConfigError(
                f"score_decay={self.score_decay!r}: must be above 0 and at most 1 ({HELP['score_decay']})"
            )
        check_choices(self)
        CODECS.check(self.codec)
        if self.evict == "lru" and self.score_decay != type(self).score_decay:
            raise ConfigError(f"score_decay={self.score_decay}: has no effect with evict=lru; add evict=score")
        self._check_recall()
        self._check_cut()

    def _check_recall(self) -> None:
        if self.recall == "question":
            return
        if self.keep == "ids":
            raise ConfigError("keep=ids: passages are found by recall=question; leave recall=layer out, or keep=blocks")
        for name in ("recall_heads", "recall_slots"):
            if (got := getattr(self, name)) != getattr(type(self), name):
                raise ConfigError(f"{name}={got}: has no effect with recall=layer; leave it out, or recall=question")

    def _check_cut(self) -> None:
        at_least(2, surprise_window=self.surprise_window, why=HELP["surprise_window"])
        if not math.isfinite(self.surprise_gamma):
            raise ConfigError(f"surprise_gamma={self.surprise_gamma}: must be finite ({HELP['surprise_gamma']})")
        if self.cut == "even":
            for f in dataclasses.fields(self):
                if f.name.startswith("surprise_") and (got := getattr(self, f.name)) != f.default:
                    raise ConfigError(f"{f.name}={got}: has no effect with cut=even; add cut=surprise or leave it out")
        elif self.per_head:
            raise ConfigError(
                "per_head=True: its choices would fill unequal parts of the slots with cut=surprise; leave one out"
            )
        elif self.window == 1:
            raise ConfigError("window=1: must be at least 2 with cut=surprise (a forward is shorter than the window)")

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

        return BlockMemory(self, plan, make_store, make_recall)
