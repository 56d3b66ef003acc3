"""A small kept session of a tiny model, and what it answers."""

from __future__ import annotations

import torch

from everlong import Blocks, Session

SMALL = {"sinks": 3, "window": 12, "block": 5, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6} | {
    "codec": "native"
}
IDS = torch.randint(97, (500,), generator=torch.Generator().manual_seed(3)).tolist()


def kept(model, store, ids=150, name="one", **fields):
    """A session in `store` that has read the first `ids` of IDS, and has a checkpoint."""
    session = Session(model, Blocks(**(SMALL | fields)), chunk=16, store=store, name=name)
    session.feed(IDS[:ids])
    session.checkpoint()
    return session


def answer(session):
    """The ids of twelve tokens after a fixed prompt."""
    return session.generate(IDS[200:210], max_new_tokens=12).token_ids
