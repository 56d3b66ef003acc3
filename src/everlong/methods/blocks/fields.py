"""The options of block memory: their one list, from which arguments, YAML keys, `-o` options and tables are made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from everlong.errors import ConfigError
from everlong.methods.fields import SINKS_HELP, WINDOW_HELP, at_least, check_choices
from everlong.storage.known import CODECS, STORES


@dataclass(frozen=True)
class BlockSettings:
    """What a block memory needs to know; `everlong.Blocks` is the method that has these fields."""

    sinks: int = field(default=64, metadata={"help": SINKS_HELP})
    window: int = field(default=1024, metadata={"help": WINDOW_HELP})
    block: int = field(default=128, metadata={"help": "tokens per block"})
    top_k: int = field(default=8, metadata={"help": "blocks that come back for a choice"})
    repr_topk: int = field(default=4, metadata={"help": "tokens whose mean key stands for a block, per query head"})
    exec_chunk: int = field(default=512, metadata={"help": "while reading, one choice for so many tokens"})
    pool: int = field(
        default=64, metadata={"help": "that choice is made by the mean query of so many tokens before them"}
    )
    choose_every: int = field(default=8, metadata={"help": "while answering, one choice for so many tokens"})
    positions: Literal["far", "ordered", "true"] = field(
        default="ordered",
        metadata={
            "help": "where chosen blocks stand: far (all at distance window - 1), ordered (in order, right behind"
            " the window) or true"
        },
    )
    choice: Literal["causal", "paper"] = field(
        default="causal",
        metadata={"help": "causal, or paper: by the mean query of the tokens themselves, which see their future so"},
    )
    digest: Literal["mean", "bounds"] = field(
        default="bounds",
        metadata={
            "help": "what stands for a block: mean (of its most attended keys) or bounds (the range of each channel)"
        },
    )
    per_head: bool = field(default=False, metadata={"help": "whether each kv head chooses for itself"})
    neighbours: int = field(default=0, metadata={"help": "blocks taken on either side of a chosen one, within top_k"})
    recall: Literal["question", "layer"] = field(
        default="question",
        metadata={
            "help": "what comes back for a question: question (what retrieval heads and the question's words"
            " choose, for all layers, beside each layer's own choice) or layer (InfLLM's rule alone)"
        },
    )
    recall_heads: int = field(default=8, metadata={"help": "retrieval heads that vote (everlong calibrate)"})
    recall_slots: int = field(
        default=4, metadata={"help": "of the top_k blocks, those that the vote for the question fills"}
    )
    keep: Literal["blocks", "ids"] = field(
        default="blocks",
        metadata={
            "help": "what is kept of what left the window: blocks, or ids (and the recall index) only: far"
            " smaller; questions are then answered by reading passages again"
        },
    )
    codec: str = field(
        default="int8",
        metadata={"help": "how blocks are stored: native, bfloat16, int8, int4, or a codec of another package"},
    )
    cut: Literal["even", "surprise"] = field(
        default="even",
        metadata={
            "help": "where blocks begin: even (each of block tokens) or surprise (before a token that surprises"
            " the model; block is then the longest, a quarter of it the shortest)"
        },
    )
    surprise_gamma: float = field(
        default=1.0, metadata={"help": "standard deviations above the mean from which a token surprises"}
    )
    surprise_window: int = field(
        default=128, metadata={"help": "mean and deviation are those of the surprisals of so many tokens before it"}
    )
    resident: int | None = field(
        default=None,
        metadata={
            "help": "blocks of a layer that stay in host memory once they came back from the disk (None: as the"
            " host budget leaves room); no number depends on it"
        },
    )
    evict: Literal["lru", "score"] = field(
        default="lru",
        metadata={"help": "which of them leaves first: lru (the least recently used) or score (each use adds 1)"},
    )
    score_decay: float = field(
        default=0.9, metadata={"help": "the share of a score that each choice of the layer leaves, with evict=score"}
    )
    stored_in: str = field(
        default="auto",
        metadata={
            "help": "where stored blocks lie: auto (in files where the session is kept, else in host memory), host,"
            " disk, or a store of another package"
        },
    )

    def __post_init__(self) -> None:
        for name in ("sinks", "neighbours", "recall_slots"):
            self._at_least(0, name)
        for name in ("window", "block", "top_k", "repr_topk", "exec_chunk", "pool", "choose_every", "recall_heads"):
            self._at_least(1, name)
        if self.resident is not None:
            self._at_least(1, "resident")
        if not isinstance(self.score_decay, int | float) or not 0 < self.score_decay <= 1:
            why = self._help("score_decay")
            raise ConfigError(f"score_decay={self.score_decay!r}: must be above 0 and at most 1 ({why})")
        check_choices(self)
        CODECS.check(self.codec)
        self._check_store()
        if self.evict == "lru" and self.score_decay != type(self).score_decay:
            raise ConfigError(f"score_decay={self.score_decay}: has no effect with evict=lru; add evict=score")
        self._check_recall()
        self._check_cut()

    def _help(self, name: str) -> str:
        return type(self).__dataclass_fields__[name].metadata["help"]

    def _at_least(self, least: int, name: str) -> None:
        at_least(least, why=self._help(name), **{name: getattr(self, name)})

    def _check_store(self) -> None:
        if self.stored_in == "auto":
            return
        STORES.check(self.stored_in)
        if self.keep == "ids":
            raise ConfigError(f"stored_in={self.stored_in}: has no effect with keep=ids; leave it out, or keep=blocks")

    def _check_recall(self) -> None:
        if self.recall == "question":
            return
        if self.keep == "ids":
            raise ConfigError("keep=ids: passages are found by recall=question; leave recall=layer out, or keep=blocks")
        for name in ("recall_heads", "recall_slots"):
            if (got := getattr(self, name)) != getattr(type(self), name):
                raise ConfigError(f"{name}={got}: has no effect with recall=layer; leave it out, or recall=question")

    def _check_cut(self) -> None:
        self._at_least(2, "surprise_window")
        if not math.isfinite(self.surprise_gamma):
            why = self._help("surprise_gamma")
            raise ConfigError(f"surprise_gamma={self.surprise_gamma}: must be finite ({why})")
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
