"""Through how many files one decoded token passes: `scripts/step.py [--check]` (blocks in a store, two layers).

Counted are files of everlong that are entered, functions of them, and how often a call leads from one file to another:
for a model whose attention is asked layer by layer (heads of 8 numbers), and for one whose token is a single call of
the extension (heads of 16). With `--check` the exit code is 1 where a figure is above its limit.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers

import everlong

SOURCE = str(Path(everlong.__file__).parent)
MOST_FILES, MOST_CHANGES = 15, 80
SMALL = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "repr_topk": 4, "exec_chunk": 32, "pool": 8}


def traced(call: Any) -> tuple[Counter[str], set[tuple[str, str]], int]:
    """(calls by file, functions, changes of file) while `call` runs."""
    files: Counter[str] = Counter()
    functions: set[tuple[str, str]] = set()
    changes = 0
    at = ""

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal changes, at
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(SOURCE):
            files[name[len(SOURCE) + 1 :]] += 1
            functions.add((name, frame.f_code.co_qualname))
            changes += name != at
            at = name

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files, functions, changes


def step(dim: int) -> tuple[Counter[str], set[tuple[str, str]], int]:
    """The figures of one token that is read as part of an answer, of a model with heads of `dim` numbers."""
    torch.manual_seed(0)
    shape = {"hidden_size": 4 * dim, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = transformers.LlamaConfig(vocab_size=97, num_hidden_layers=2, max_position_embeddings=256, **shape, **ends)
    model = transformers.LlamaForCausalLM(config).eval()
    with (
        tempfile.TemporaryDirectory() as folder,
        everlong.Session(model, everlong.Blocks(**SMALL, recall="layer"), chunk=32, store=folder) as session,
    ):
        session.feed(torch.randint(97, (203,)))
        session.feed([5], answering=True)
        return traced(lambda: session.feed([6], answering=True))


def main() -> int:
    """Print the figures, and with --check say whether one is above its limit."""
    over = False
    for dim in (8, 16):
        files, functions, changes = step(dim)
        for name, calls in files.most_common() if "--check" not in sys.argv else ():
            print(f"{calls:>6}  {name}")
        print(f"heads of {dim}: {len(files)} files, {len(functions)} functions, {changes} changes of file")
        over |= len(files) > MOST_FILES or changes > MOST_CHANGES
    print(f"at most {MOST_FILES} files and {MOST_CHANGES} changes of file")
    return int(over and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
