"""What every form of weights must do: attach, read as the model alone does, keep a session, know other weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everlong import Blocks, Session, Sinks
from everlong.errors import ForeignError
from everlong.hooks.attach import attach
from everlong.models.load import Loaded

IDS = torch.arange(3, 63)
SMALL = {"sinks": 2, "block": 8, "top_k": 2, "repr_topk": 2, "exec_chunk": 8}
METHODS = {"sinks": Sinks(sinks=2, window=78), "blocks": Blocks(window=78, **SMALL)}


@torch.no_grad()
def attaches(loaded: Loaded, tolerance: float = 1e-5) -> None:
    """With sinks and blocks, the self-check passed; while all fits the logits are the model's own."""
    want = loaded.model(IDS[None]).logits.float()
    for method in METHODS.values():
        with attach(loaded.model, method) as handle:
            cache = handle.new_cache(chunk=16)
            parts = [loaded.model(IDS[None, at : at + 15], past_key_values=cache).logits for at in range(0, 60, 15)]
            error = (torch.cat(parts, 1).float() - want).abs().max() / want.abs().max()
            assert error <= tolerance, method


def keeps(loaded: Loaded, again: Loaded, other: Loaded, folder: Path) -> None:
    """A session that forgets or stores goes on with the model loaded again, and is refused with another one."""
    for name, method in (("sinks", Sinks(sinks=2, window=24)), ("blocks", Blocks(window=24, **SMALL))):
        with Session(loaded, method, chunk=16) as session:
            session.feed(IDS)
            path = session.save(folder / name)
            want = session.generate(max_new_tokens=6, temperature=0.0).token_ids
        with Session.load(path, again) as session:
            assert session.seen_tokens == 60
            assert session.generate(max_new_tokens=6, temperature=0.0).token_ids == want
        with pytest.raises(ForeignError, match="another model"):
            Session.load(path, other)
