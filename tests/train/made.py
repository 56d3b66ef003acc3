"""Books of our own, tokenizers for them, and what is asked of every sample."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from everlong.train.data import Example, TrainingTask
from everlong.train.tokenizer import bpe_tokenizer, closed_tokenizer
from tests.models.tiny import byte_tokenizer

SENTENCES = 60


def books(folder: Path, count: int = 3, sentences: int = SENTENCES) -> Path:
    """A folder with so many books, all sentences different, with what stands around books of Project Gutenberg."""
    folder.mkdir(parents=True, exist_ok=True)
    for b in range(count):
        story = "\n".join(f"In year {n} of book {b} the tide\nrose and fell. Who saw it?" for n in range(sentences))
        (folder / f"book{b}.txt").write_text(
            f"Licence.\n*** START OF THE BOOK ***\n{story}\n*** END OF THE BOOK ***\nMore.", encoding="utf-8"
        )
    return folder


@functools.lru_cache(maxsize=16)
def closed(task: TrainingTask) -> Any:
    """The closed tokenizer of a task."""
    return closed_tokenizer(task.texts())


def tokenizers(task: TrainingTask, folder: Path) -> dict[str, Any]:
    """One of each kind: closed, BPE with single digits, bytes with a few pairs."""
    return {
        "closed": closed(task),
        "bpe": bpe_tokenizer(sorted(books(folder / "for bpe").glob("*.txt")), 400),
        "bytes": byte_tokenizer(),
    }


def text(tokenizer: Any, sample: Example) -> str:
    return tokenizer.decode(sample.ids.tolist())


def answer(tokenizer: Any, sample: Example) -> str:
    return tokenizer.decode(sample.ids[slice(*sample.answer)].tolist()).strip()


def same(a: Example, b: Example) -> bool:
    names = ("ids", "loss_weight", "write_weight", "document")
    return a.answers == b.answers and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)
