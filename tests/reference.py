"""Attention sinks on a Llama in paper order, as slowly and plainly as it can be written.

`SlowSinks` reads one token at a time in float64, keeps every key as it was before rotation, and at each step turns
the keys it attends to to their places in the cache, 0..S+W-1, and the query to the last of these places
(StreamingLLM, arXiv 2309.17453, section 3.2). `SlowBlocks` does the same for block
memory. They share no code with everlong and none with transformers.

Letters: H query heads, G kv heads, D head dim, M keys that the token sees.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import LlamaForCausalLM, Qwen2VLForConditionalGeneration

from everlong.methods.blocks.settings import Blocks


class SlowSinks:
    """A Llama that reads a stream with `sinks` first and `window` last tokens, the token itself included."""

    def __init__(self, model: LlamaForCausalLM, sinks: int, window: int) -> None:
        config = model.config
        self.weights = {name: p.detach().double() for name, p in model.state_dict().items()}
        self.sinks, self.window = sinks, window
        self.layers, self.eps = config.num_hidden_layers, config.rms_norm_eps
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = self.weights["model.layers.0.self_attn.q_proj.weight"].shape[0] // self.heads
        half = torch.arange(0, self.head_dim, 2, dtype=torch.float64)
        self.frequencies = config.rope_parameters["rope_theta"] ** (-half / self.head_dim)
        self.keys: list[list[Tensor]] = [[] for _ in range(self.layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(self.layers)]

    def read(self, ids: Tensor) -> Tensor:
        """Logits [tokens, vocabulary] in float64 of the next tokens of the stream."""
        return torch.stack([self._token(int(i)) for i in ids.flatten()])

    def _token(self, token: int) -> Tensor:
        x = self.weights["model.embed_tokens.weight"][token]
        for layer in range(self.layers):
            x = x + self._attention(layer, self._norm(f"model.layers.{layer}.input_layernorm", x))
            x = x + self._feed_forward(layer, self._norm(f"model.layers.{layer}.post_attention_layernorm", x))
        return self.weights["lm_head.weight"] @ self._norm("model.norm", x)

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = (self._project(layer, name, x) for name in ("q_proj", "k_proj", "v_proj"))
        keys, values = self.keys[layer], self.values[layer]
        keys.append(k)
        values.append(v)
        seen = self._visible(len(keys) - 1)
        places = torch.arange(len(seen), dtype=torch.float64)
        k_GMD = self._rotate(torch.stack([keys[i] for i in seen], 1), places)
        v_GMD = torch.stack([values[i] for i in seen], 1)
        q_HD = self._rotate(q[:, None], places[-1:])[:, 0]
        out = [self._head(q_HD[h], k_GMD[g], v_GMD[g]) for h, g in enumerate(self._kv_head_of())]
        return self.weights[f"model.layers.{layer}.self_attn.o_proj.weight"] @ torch.cat(out)

    def _visible(self, t: int) -> list[int]:
        """Indices of the tokens that token t sees, in the order in which they lie in the cache."""
        first = max(0, t - self.window + 1)
        return [*range(min(self.sinks, first)), *range(first, t + 1)]

    def _kv_head_of(self) -> list[int]:
        return [h // (self.heads // self.kv_heads) for h in range(self.heads)]

    def _head(self, q_D: Tensor, k_MD: Tensor, v_MD: Tensor) -> Tensor:
        scores = k_MD @ q_D * self.head_dim**-0.5
        return torch.softmax(scores, 0) @ v_MD

    def _rotate(self, x_NMD: Tensor, places: Tensor) -> Tensor:
        """`x` with the pair (d, d + D/2) of row m turned by places[m] times frequency d."""
        angle = places[:, None] * self.frequencies
        a, b = x_NMD.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def _project(self, layer: int, name: str, x: Tensor) -> Tensor:
        return (self.weights[f"model.layers.{layer}.self_attn.{name}.weight"] @ x).view(-1, self.head_dim)

    def _feed_forward(self, layer: int, x: Tensor) -> Tensor:
        gate, up, down = (
            self.weights[f"model.layers.{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        return down @ (silu(gate @ x) * (up @ x))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return self.weights[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean() + self.eps)


class SlowBlocks(SlowSinks):
    """Block memory in paper order (InfLLM, arXiv 2402.04617), one token at a time, every key turned afresh.

    `chosen[layer]` lists (token, block numbers) for each choice, `mass[layer][token]` [H] what attention a token got
    while it was in the window, `digests[layer][block]` what stands for a block: [H, D], or for bounds [G, 2, D] the
    largest and the smallest value of each channel. Blocks are chosen by these digests in bfloat16 (`rounded`).
    """

    def __init__(self, model: LlamaForCausalLM, method: Blocks) -> None:
        super().__init__(model, method.sinks, method.window)
        self.method, self.answering = method, False
        layers = range(self.layers)
        self.mass: list[list[Tensor]] = [[] for _ in layers]
        self.far_queries: list[list[Tensor]] = [[] for _ in layers]
        self.digests: list[list[Tensor]] = [[] for _ in layers]
        self.chosen: list[list[tuple[int, list[int]]]] = [[] for _ in layers]
        self.sealed = [0] * self.layers
        self.run: list[tuple[bool | None, int]] = [(False, 0)] * self.layers
        self.pinned: set[int] = set()
        self.starts, self.surprisals = [method.sinks], list[float | None]()
        self.logits: Tensor | None = None

    def _token(self, token: int) -> Tensor:
        if self.method.cut == "surprise":
            self._cut(token)
        self.logits = super()._token(token)
        return self.logits

    def _cut(self, token: int) -> None:
        """Begin a block with this token if it surprises, or the block before it is full (EM-LLM, arXiv 2407.09450)."""
        last = [x for x in self.surprisals[-self.method.surprise_window :] if x is not None]
        surprisal = None if self.logits is None else -float(self.logits.log_softmax(0)[token])
        length, most = len(self.surprisals) - self.starts[-1], self.method.block
        high = (
            surprisal is not None
            and len(last) > 1
            and (surprisal > statistics.fmean(last) + self.method.surprise_gamma * statistics.pstdev(last))
        )
        if length >= most or (length >= max(1, most // 4) and high):
            self.starts.append(len(self.surprisals))
        self.surprisals.append(surprisal)

    def _start(self, block: int) -> int:
        return self.starts[block] if self.method.cut == "surprise" else self.sinks + block * self.method.block

    def _blocks_before(self, token: int) -> int:
        if self.method.cut == "surprise":
            return sum(start <= token for start in self.starts[1:])
        return max(0, (token - self.sinks) // self.method.block)

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = (self._project(layer, name, x) for name in ("q_proj", "k_proj", "v_proj"))
        self.keys[layer].append(k)
        self.values[layer].append(v)
        self.mass[layer].append(torch.zeros(self.heads, dtype=torch.float64))
        t = len(self.keys[layer]) - 1
        q_far = self._at(q, self.window - 1)
        if self._opens(layer, t):
            self._choose(layer, t, q_far)
        local, far = self._parts(layer, t)
        keys = [(j, self._place(t) - self._place(j)) for j in local] + far
        behind = torch.tensor([-distance for _, distance in keys], dtype=torch.float64)
        turned = self._rotate(torch.stack([self.keys[layer][j] for j, _ in keys], 1), behind)
        values = torch.stack([self.values[layer][j] for j, _ in keys], 1)
        out = [self._joint(layer, h, q[h], turned[g], values[g], local) for h, g in enumerate(self._kv_head_of())]
        self.far_queries[layer].append(q_far)
        return self.weights[f"model.layers.{layer}.self_attn.o_proj.weight"] @ torch.cat(out)

    def pin(self, blocks: set[int]) -> None:
        """Choose these blocks from now on in any case, as soon as they exist; the next token begins a cell."""
        self.pinned, self.run = blocks, [(None, 0)] * self.layers

    def _at(self, x_ND: Tensor, place: int) -> Tensor:
        return self._rotate(x_ND[:, None], torch.tensor([place], dtype=torch.float64))[:, 0]

    def _opens(self, layer: int, t: int) -> bool:
        """Whether a cell begins with token t."""
        answering, start = self.run[layer]
        changed = t == 0 or answering != self.answering
        if changed:
            self.run[layer] = (self.answering, t)
            return True
        if self.answering:
            return (t - start) % self.method.choose_every == 0
        return t % self.method.exec_chunk == 0

    def _choose(self, layer: int, t: int, q_far: Tensor) -> None:
        self.sealed[layer] = self._blocks_before(t - self.window + 1)
        for n in range(len(self.digests[layer]), self.sealed[layer]):
            self.digests[layer].append(self._digest(layer, self._tokens_of(n)))
        found = list(range(self.sealed[layer]))
        if len(found) > self.method.top_k:
            pooled = q_far if self.answering else torch.stack(self.far_queries[layer][-self.method.pool :]).mean(0)
            digests = [self.rounded(digest) for digest in self.digests[layer][: len(found)]]
            scores = torch.stack([self._score(pooled, digest) for digest in digests])
            scores[[n for n in self.pinned if n < len(found)]] = torch.inf
            found = sorted(scores.topk(self.method.top_k).indices.tolist())
        self.chosen[layer].append((t, found))

    def _tokens_of(self, block: int) -> range:
        return range(self._start(block), self._start(block + 1))

    def _score(self, query: Tensor, digest: Tensor) -> Tensor:
        if self.method.digest == "mean":
            return (query * digest).sum()
        most, least = (torch.stack([digest[g, side] for g in self._kv_head_of()]) for side in (0, 1))
        return torch.maximum(query * most, query * least).sum()

    def _digest(self, layer: int, tokens: range) -> Tensor:
        if self.method.digest == "bounds":
            keys = torch.stack([self.keys[layer][j] for j in tokens])
            return torch.stack((keys.amax(0), keys.amin(0)), 1)
        rows = []
        for h, g in enumerate(self._kv_head_of()):
            mass = torch.stack([self.mass[layer][j][h] for j in tokens])
            best = mass.topk(min(self.method.repr_topk, len(tokens))).indices.tolist()
            rows.append(torch.stack([self.keys[layer][tokens[i]][g] for i in best]).mean(0))
        return torch.stack(rows)

    def rounded(self, digest: Tensor) -> Tensor:
        """A digest as it is kept, in bfloat16: means to the nearest number, maxima up, minima down."""
        if self.method.digest == "mean":
            return bfloat16(digest, torch.round)
        return torch.stack((bfloat16(digest[:, 0], torch.ceil), bfloat16(digest[:, 1], torch.floor)), 1)

    def digests_within(self, layer: int, error: float) -> tuple[Tensor, Tensor]:
        """The least and the largest [N, columns] that digests may be kept as if their keys are off by `error`."""
        least, most = (
            torch.stack([self.rounded(digest + by).flatten() for digest in self.digests[layer]])
            for by in (-error, error)
        )
        return least, most

    def _parts(self, layer: int, t: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens in the window; and those outside it, each with the distance at which it stands."""
        first = max(0, t - self.window + 1)
        sinks = list(range(min(self.sinks, first)))
        blocks = self.chosen[layer][-1][1]
        start = self._start(self.sealed[layer])
        pending = list(range(start, first))
        far = [j for n in blocks for j in self._tokens_of(n)]
        kept = sinks + far
        places = [self._place(j) for j in kept]
        if self.method.positions == "ordered" and blocks:
            places = self._in_order(sinks, blocks, self._place(start))
        distances = [self._place(t) - place for place in places]
        behind = [self._place(t) - self._place(j) for j in pending]
        if self.method.positions == "far":
            distances = [self.window - 1] * len(kept)
            behind = [self.window - 1] * len(pending)
        return list(range(first, t + 1)), list(zip(kept + pending, distances + behind, strict=True))

    def _in_order(self, sinks: list[int], blocks: list[int], end: int) -> list[int]:
        """Places of the sinks, then of the tokens of the chosen blocks, in front of the place `end`."""
        behind = sum(len(self._tokens_of(n)) for n in blocks)
        found = [end - behind - self.sinks + self._place(j) - self._place(0) for j in sinks]
        for n in blocks:
            tokens = self._tokens_of(n)
            found += [end - behind + self._place(j) - self._place(tokens[0]) for j in tokens]
            behind -= len(tokens)
        return found

    def _place(self, j: int) -> int:
        """Where token j stands in the text."""
        return j

    def _joint(self, layer: int, h: int, q: Tensor, turned: Tensor, values: Tensor, local: list[int]) -> Tensor:
        """The output of one head: one softmax over all; adds to the mass of the tokens in the window."""
        weights = torch.softmax(turned @ q * self.head_dim**-0.5, 0)
        for i, j in enumerate(local):
            self.mass[layer][j][h] += weights[i]
        return weights @ values


class SlowImages(SlowBlocks):
    """Block memory on a Qwen2-VL, whose images have tokens on three axes; they are moved as one, with their text.

    `read` is given the numbers 0, 1, 2, .. of the tokens of `embeddings` [T, W]; `planes` [3, T] are their positions. A
    token's place is the least position of itself and of all tokens behind it, by which key and query are turned back.
    """

    def __init__(self, model: Qwen2VLForConditionalGeneration, method: Blocks, embeddings: Tensor, planes: Tensor):
        own = {name.replace("model.language_model.", "model."): p for name, p in model.state_dict().items()}
        text = SimpleNamespace(config=model.config.text_config, state_dict=lambda: own)
        super().__init__(cast("LlamaForCausalLM", text), method)
        self.weights["model.embed_tokens.weight"] = embeddings.double()
        self.planes = planes
        self.places = [int(planes[:, j:].min()) for j in range(planes.shape[1])]
        sections = text.config.rope_parameters["mrope_section"]
        self.axis = torch.tensor([a for a, count in enumerate(sections) for _ in range(count)])

    def _place(self, j: int) -> int:
        return self.places[j]

    def _project(self, layer: int, name: str, x: Tensor) -> Tensor:
        bias = self.weights[f"model.layers.{layer}.self_attn.{name}.bias"]
        found = super()._project(layer, name, x) + bias.view(-1, self.head_dim)
        if name == "v_proj":
            return found
        t = len(self.keys[layer])
        angle = (self.planes[:, t] - self.places[t]).double()[self.axis] * self.frequencies
        a, b = found.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def slow_rarity(ids: list[int], starts: list[int], question: list[int]) -> list[float]:
    """How rare each token of a question is in blocks: by the rarest run of up to three ids that ends with it."""
    blocks = [ids[a:b] for a, b in itertools.pairwise(starts)]

    def weight(count: int) -> float:
        return math.log(1 + (len(blocks) - count + 0.5) / (count + 0.5))

    found = []
    for n in range(len(question)):
        weights = []
        for size in (1, 2, 3):
            run = question[n + 1 - size : n + 1]
            if n + 1 < size:
                continue
            # A run belongs to the block that it begins in.
            at = [i for i in range(len(ids)) if ids[i : i + size] == run]
            holding = len({next(b for b, end in enumerate(starts[1:]) if i < end) for i in at})
            if size == 1:
                weights.append(weight(holding))
            elif holding:
                weights.append(0.5 * weight(holding))
        found.append(max(weights) / weight(0))
    return found


def bfloat16(x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Numbers with the eight significant bits of bfloat16, still in float64; `rounding` makes them whole."""
    step = 2.0 ** (torch.frexp(x).exponent - 8)
    return rounding(x / step) * step
