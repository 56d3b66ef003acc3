"""Block memory of models that cache latent vectors (MLA): over those, as if over the keys that are made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everlong import Blocks
from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.errors import CapabilityError
from everlong.hooks.attach import attach
from everlong.hooks.expansion import _absorbed, basis
from everlong.methods.blocks.memory import BlockMemory
from everlong.models.load import Loaded
from everlong.session.session import Session
from tests.families.models import stream, tokens
from tests.families.zoo import tiny

BLOCKS = Blocks(window=12, sinks=3, block=5, top_k=3, repr_topk=2, exec_chunk=16, pool=6, codec="native")
TEXT = tokens(120)
KINDS = ["DeepseekV3ForCausalLM", "KimiLinearForCausalLM"]


@pytest.mark.parametrize("name", KINDS)
def test_blocks_of_latent_vectors_are_blocks_of_the_keys_made_of_them(name):
    """The reference stores keys and values of every head, as of any other model."""
    model = tiny(name)
    with attach(model, replace(BLOCKS, digest="mean")) as handle, torch.no_grad():
        cache = handle.new_cache(16)
        cache.stream.memory.digest_dtype = torch.float32
        got = stream(model, cache, TEXT, 11)
        made = cache.stream.memory._absorbed
        assert set(made) == {p.index for p in handle.plan.layers if p.joint} != set()
        (H, D, _), (_, E, _) = (x.shape for x in (next(iter(made.values())).keys, next(iter(made.values())).values))
        own = [replace(p, latent=False, repeated=False, key=(H, D), value=(H, E)) for p in handle.plan.layers]
        memory = BlockMemory(cache.stream.memory.settings, replace(handle.plan, layers=tuple(own)))
        memory.digest_dtype = torch.float32
        reference = CachedStream(handle.plan, "reference", BLOCKS.sinks, BLOCKS.window, 16, memory)
        want = stream(model, StreamCache(reference), TEXT, 11)
        layer = min(made)
        row, other = (x.rows[0].layers[layer] for x in (cache.stream.memory, memory))
        assert row.now.chosen.tolist() == other.now.chosen.tolist()
        assert (got - want).abs().max() <= 1e-4 * max(1.0, float(want.abs().max()))
        plan = handle.plan.by_index[layer]
        stored = 2 * plan.key[1] + plan.value[1]
        assert row.shape.key_dim + row.shape.value_dim == stored < H * (D + E)


def test_sessions_keep_blocks_of_latent_vectors(tmp_path):
    loaded = Loaded(tiny("DeepseekV3ForCausalLM"), None, "m")
    with Session(loaded, BLOCKS, 16, tmp_path, "s") as session:
        session.feed(TEXT[0, :90])
        fork = session.fork()
        fork.feed(TEXT[0, 90:])
        want = fork.prediction
        assert session.report().stored_tokens > 0
        fork.close()
    with Session.open(tmp_path, "s", loaded, 16) as session:
        session.feed(TEXT[0, 90:])
        torch.testing.assert_close(session.prediction, want, atol=1e-5, rtol=0)


def test_keys_that_are_not_linear_in_what_is_cached_are_refused():
    with attach(tiny("DeepseekV3ForCausalLM"), BLOCKS) as handle:
        layer = handle.plan.by_index[0]
    size = layer.compared[0][1]
    made = torch.randn(4, size, 6)
    given = torch.einsum("nr,hrd->hnd", basis(size), made)
    given[:, :, -4:] = basis(size)[:, layer.key[1] :]
    values = given.clone()
    values[:, layer.key[1] : size] = 0
    values[:, -1] = torch.einsum("r,hrd->hd", basis(size)[-1], values[:, :size])
    _absorbed(layer, given, values)
    with pytest.raises(CapabilityError, match="layer 0: its keys are not linear in what it caches; use the method"):
        _absorbed(layer, given.tanh(), values)
    with pytest.raises(CapabilityError, match="its values depend on what it rotates"):
        _absorbed(layer, given, given)
    turned = given.clone()
    turned[:, :, -4:] *= -1
    with pytest.raises(CapabilityError, match="its keys change what was rotated"):
        _absorbed(layer, turned, values)
