"""Attention sinks on a Llama in paper order, as slowly and plainly as it can be written.

`SlowSinks` reads one token at a time in float64, keeps every key as it was before rotation, and at each step turns
the keys it attends to to their places in the cache, 0..S+W-1, and the query to the last of these places
(StreamingLLM, arXiv 2309.17453, section 3.2). It shares no code with everlong and none with transformers.

Letters: H query heads, G kv heads, D head dim, M keys that the token sees.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import LlamaForCausalLM


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
