"""Finding how a model rotates, by experiment instead of by a table of families.

One token is heard at positions 0, 1, 7 and 33 (listen.py). Every hypothesis {frequencies} x {halves or neighbours} x
{leading or trailing dims} x {key or value slot} is tried against what is cached. What none explains is refused; what
one explains must hold for queries too, and far away (far.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from everlong.cache.absent_layer import AbsentLayer
from everlong.errors import (
    AttachError,
    LearnedPositionsError,
    PrecisionError,
    RotationError,
    UnsupportedLayerError,
    one_line,
)
from everlong.hooks.far_check import distance, moves_axes_together, prove
from everlong.hooks.heads import ranks_of, sharing_heads
from everlong.hooks.listen import Heard, Recorder, listen
from everlong.hooks.routes import AttentionHook
from everlong.hooks.state_check import carries_states, state_plans
from everlong.models.internals import accepts, around_decoder, decoder_of, device_of, text_config
from everlong.models.layout import LayerPlan, ModelLayout, Pattern
from everlong.models.ranks import Ranks
from everlong.ops.rotary import Rotation

POSITIONS = (0, 1, 7, 33)
NEAR_POSITIONS = (0, 1, 2, 3)
"""For models trained on fewer positions than that."""

_INDEXED = (
    "picks the tokens that it attends to by an index of its own, which has a key for every token that was read and "
    "grows without bound"
)
_COMPRESSED = (
    "attends to runs of tokens joined into one by a compressor of its own, which cannot be moved, left out or stored "
    "token by token"
)
_OWN_KINDS = {
    "indexed_attention": _INDEXED,
    "heavily_compressed_attention": _COMPRESSED,
    "compressed_sparse_attention": f"{_COMPRESSED}, and {_INDEXED}",
}
"""Why layers of transformers' kinds that attend in a way of their own are refused."""
_OTHER = (
    "is neither softmax attention over cached keys nor a state of constant size, so its memory cannot be bounded here"
)
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Relative error up to which a hypothesis is accepted: rounding of the model's own cosines and products."""


def probe(model: PreTrainedModel, route: AttentionHook) -> ModelLayout:
    """The plan of `model`, from one token at some positions; an AttachError where something cannot be proved."""
    patterns = _patterns(model)
    frequencies = list(_frequencies(model))
    trained, hard = _lengths(model)
    alibi = not accepts(decoder_of(model), "position_ids")
    ranks = ranks_of(model)
    with _told_as_sharded(model, ranks):
        near = listen(model, route, np.array(POSITIONS if trained > POSITIONS[-1] else NEAR_POSITIONS))
    if not near.cached:
        raise UnsupportedLayerError(
            f"{type(model).__name__}: caches no keys, so that no window and no memory would change anything; expected "
            "softmax attention layers (a recurrent model keeps constant memory without everlong)"
        )
    if alibi:
        _check_position_free(model)
    attending = [i for i in range(len(patterns)) if _attends(i, patterns, near)]
    layers = {i: _layer(model, i, patterns, near, frequencies) for i in attending}
    dtype = next(iter(near.cached.values()))[0].dtype
    ranks = sharing_heads(model, ranks, near)
    heads = _heads(model, layers.values(), near, ranks)
    states = state_plans(near.states, len(near.positions))
    plan = ModelLayout(
        tuple(_share(layers)), trained, hard, dtype, alibi, heads, ranks, depth=len(patterns), states=states
    )
    if states and not carries_states(model):
        plan = replace(plan, steps_singly=True)
    if alibi:
        return plan
    plan = prove(model, route, plan, near, TOLERANCE[dtype])
    if around_decoder(model) is None:
        return plan
    together = moves_axes_together(model, route, plan, near.positions.numpy(), TOLERANCE[dtype])
    return replace(plan, axes_together=together)


@contextmanager
def _told_as_sharded(model: PreTrainedModel, ranks: Ranks | None) -> Iterator[None]:
    """AttachError where a model that is shared out to ranks fails at its first token."""
    try:
        yield
    except RuntimeError as error:
        if ranks is None:
            raise
        raise AttachError(
            f"{type(model).__name__}: sharded over {ranks.size} ranks it cannot read a token, without everlong neither "
            f"({one_line(error, 120)}); load it over so few ranks that they divide its heads of keys, or whole"
        ) from error


def _attends(index: int, patterns: list[Pattern | None], near: Heard) -> bool:
    """Whether a layer has attention: one that has no keys of its own and asks with no queries has none."""
    return patterns[index] is not None or index in near.cached or index in near.queries


def _heads(model: PreTrainedModel, layers: Iterable[LayerPlan], near: Heard, ranks: Ranks | None) -> int:
    """Query heads of a layer that this process computes."""
    if ranks is not None:
        return max(q.shape[1] for q in near.queries.values())
    return getattr(text_config(model), "num_attention_heads", None) or max(p.key[0] for p in layers if p.key)


def _check_position_free(model: PreTrainedModel) -> None:
    """A model that takes no positions must cache the same first-layer key wherever a token stands."""
    recorder = Recorder(model.config)
    ids = torch.full((1, 3), text_config(model).vocab_size // 2, device=device_of(model))
    with torch.no_grad():
        decoder_of(model)(input_ids=ids, past_key_values=recorder, use_cache=True)
    keys = recorder.seen[min(recorder.seen)][0].float()
    if not torch.allclose(keys[:, :, :1].expand_as(keys), keys, rtol=1e-3, atol=1e-4):
        raise LearnedPositionsError(_learned(model, "its keys change with the place of a token"))


def _frequencies(model: PreTrainedModel) -> Iterator[Tensor]:
    """Candidates for the radians per position of each pair: the model's own buffers, then from its config."""
    for name, buffer in model.named_buffers():
        if "inv_freq" in name and buffer.ndim == 1:
            if buffer.dtype not in (torch.float32, torch.float64):
                raise PrecisionError(
                    f"{name}: rotary frequencies are {buffer.dtype}, expected torch.float32 (model.to(dtype) cast "
                    "them, up to 77 % off); load the model with dtype=... instead of casting it"
                )
            yield buffer.double().cpu()
    fields = vars(text_config(model))
    for dim in {fields.get(name) for name in ("rotary_dim", "head_dim")}:
        if isinstance(dim, int) and dim > 1:
            yield 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def _lengths(model: PreTrainedModel) -> tuple[int, int | None]:
    """(trained length, length past which the model computes other angles or has none)."""
    config = text_config(model)
    names = ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length")
    trained = next((n for n in (getattr(config, name, None) for name in names) if isinstance(n, int)), 2048)
    found = getattr(config, "rope_parameters", None) or {}
    for rope in [found, *(r for r in found.values() if isinstance(r, dict))]:
        if rope.get("rope_type") in ("dynamic", "longrope"):
            original = rope.get("original_max_position_embeddings")
            return trained, original or getattr(config, "original_max_position_embeddings", None) or trained
    tables = [b for name, b in model.named_buffers() if "embed_positions" in name and b.ndim == 2]
    return trained, tables[0].shape[0] if tables else None


def _patterns(model: PreTrainedModel) -> list[Pattern | None]:
    """What each layer may see, as transformers' own cache understands the config; None: no keys of its own."""
    types = getattr(text_config(model), "layer_types", None) or []
    patterns: list[Pattern | None] = []
    for i, layer in enumerate(DynamicCache(config=model.config).layers):
        kind = types[i] if i < len(types) else None
        keeps_state = isinstance(layer, LinearAttentionCacheLayerMixin)
        if type(layer) is AbsentLayer or (keeps_state and not isinstance(layer, DynamicLayer)):
            patterns.append(None)
        elif type(layer) is DynamicSlidingWindowLayer or (keeps_state and layer.is_sliding):
            chunked = kind == "chunked_attention" or getattr(text_config(model), "sliding_window", None) is None
            patterns.append(Pattern(**{"chunked" if chunked else "sliding": layer.sliding_window}))
        elif type(layer) is DynamicLayer or keeps_state:
            patterns.append(Pattern())
        else:
            raise UnsupportedLayerError(
                f"layer {i} ({kind or type(layer).__name__}): {_OWN_KINDS.get(str(kind), _OTHER)}; expected full, "
                "sliding, chunked or linear attention in every layer"
            )
    return patterns


def _layer(
    model: PreTrainedModel,
    index: int,
    patterns: list[Pattern | None],
    near: Heard,
    frequencies: list[Tensor],
) -> LayerPlan:
    pattern = patterns[index]
    cached = near.cached
    positions = near.positions
    if index not in cached:
        source = _source(model, index, cached)
        return LayerPlan(index, source, patterns[source] or Pattern())
    if pattern is None:
        pattern = Pattern()
    k, v = cached[index]
    key, value = ((x.shape[1], x.shape[3]) for x in (k, v))
    repeated = near.key_heads.get(index, key[0]) != key[0]
    tolerance = TOLERANCE[k.dtype]
    moves_k, moves_v = (_error(x, None, positions) > tolerance for x in (k, v))
    rotation = None if moves_k and moves_v else _explain(v if moves_v else k, frequencies, positions, tolerance)
    if not moves_k and not moves_v and not _turns(k, rotation, positions):
        return LayerPlan(index, index, pattern, repeated=repeated, key=key, value=value)
    if rotation is None:
        raise _unexplained(model, index, k)
    if moves_v:
        rotation = Rotation(rotation.freqs, rotation.start - v.shape[3], rotation.interleaved)
    return LayerPlan(index, index, pattern, rotation, latent=moves_v, repeated=repeated, key=key, value=value)


def _source(model: PreTrainedModel, index: int, cached: dict[int, tuple[Tensor, Tensor]]) -> int:
    """The layer whose keys a sharing layer uses: the last before it of the same type that caches any."""
    types = getattr(text_config(model), "layer_types", None) or []
    same = [i for i in cached if i < index and (not types or types[i] == types[index])]
    if not same:
        raise UnsupportedLayerError(f"layer {index}: caches nothing and shares with no earlier layer")
    return max(same)


def _explain(x: Tensor, frequencies: list[Tensor], positions: Tensor, tolerance: float) -> Rotation | None:
    """The rotation that best explains rows [4, G, 1, D] at the probe's positions, if its error is small enough."""
    hypotheses = [
        Rotation(freqs, start, interleaved)
        for freqs, interleaved in itertools.product(frequencies, (False, True))
        if 2 * len(freqs) <= x.shape[3]
        for start in sorted({0, x.shape[3] - 2 * len(freqs)})
    ]
    best = min(hypotheses, key=lambda h: _error(x, h, positions), default=None)
    return best if best is not None and _error(x, best, positions) <= tolerance else None


def _turns(x: Tensor, rotation: Rotation | None, positions: Tensor) -> bool:
    """Whether rows that are nearly alike are better explained by a rotation: keys that lie in the slowest pairs.

    Rows without positions are alike to the bit, or nearly so; no rotation comes as near to them.
    """
    return rotation is not None and 2 * _error(x, rotation, positions) < _error(x, None, positions)


def _error(x: Tensor, rotation: Rotation | None, positions: Tensor) -> float:
    """Largest relative distance between the rows and the first row turned to where they stand."""
    return float(distance(x[:1], x, rotation, positions).max())


def _share(layers: Mapping[int, LayerPlan]) -> Iterator[LayerPlan]:
    """The same layers with one Rotation object for all equal ones, and sharing layers rotating as their source."""
    known: list[Rotation] = []
    for layer in layers.values():
        rotation = layers[layer.source].rotation
        if rotation is not None:
            rotation = next((r for r in known if r.same(rotation)), rotation)
            known.append(rotation)
        yield replace(layer, rotation=rotation)


def _unexplained(model: PreTrainedModel, index: int, k: Tensor) -> RotationError | LearnedPositionsError:
    trained = _lengths(model)[0]
    inputs = model.get_input_embeddings()
    tables = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Embedding) and m is not inputs and 0 <= m.num_embeddings - trained <= 8
    ]
    if tables:
        return LearnedPositionsError(_learned(model, f"{tables[0]} is a table of learned positions"))
    return RotationError(
        f"{type(model).__name__} layer {index}: its keys change with the position in a way that no known rotation "
        "explains (halves or neighbours, leading or trailing dims, every frequency buffer; a norm after the rotation "
        "with unequal weights is one such way); use a model that rotates last, or transformers without everlong"
    )


def _learned(model: PreTrainedModel, why: str) -> str:
    return (
        f"{type(model).__name__}: positions are learned vectors ({why}), so a token cannot be moved to another "
        "place and the text cannot outgrow the table; use a model with rotary positions or ALiBi"
    )
