r"""SmolLM2 with a memory by the delta rule in its last layers, all else frozen: perplexity beside the window alone.

    python benchmarks/smollm2_delta.py --data ../shared/data --out benchmarks/results/smollm2_delta.json

A trial of what could become a form of the method `delta`, outside of it: the window (256 tokens) has 4 sinks, and the
queries of the memory are made of the model's own unrotated keys, as its keys are, with the mean key of each head taken
away (`--queries model`: of the model's queries). Degree 1, 64 x 64 numbers for each of 3 kv heads. Trained are taps,
strengths of writing, and how much of the answer each head adds (from 0): the window alone, trained the same way, is the
model as it was. Layers below run once and what leaves them is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from paired import ratio, trained_on
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import everlong
from everlong.hooks.patch import ModelPatch
from everlong.machine import circumstances
from everlong.methods.delta.maps import Maps, Sizes, untrained
from everlong.ops.delta import read_segments
from everlong.train.data.corpus import book_text

WINDOW, SINKS, SEGMENT, TAPS = 256, 4, 128, 4
LENGTH, ASKED, FIRST = 2048, 512, 512
"""Tokens of a piece that is trained on, and how many of them, from FIRST on, have a loss in a step."""
READ, READ_FIRST = 3072, 1024
"""Tokens of a test text, and from which on they count."""
GROUPS = {"pg19/*.txt": 3, "books/*.txt": 1, "math/*.tex": 1}


@dataclass
class Trial:
    """The model, and where its memory begins."""

    model: Any
    first: int
    own_queries: bool

    def below(self, ids: Tensor) -> Tensor:
        """What enters layer `first` [1, T, W]."""
        hidden = self.model.model.embed_tokens(ids)
        for layer in self.model.model.layers[: self.first]:
            hidden = self.through(layer, hidden, None, None)
        return hidden

    def through(self, layer: Any, hidden: Tensor, given: dict[str, Tensor] | None, reset: int | None) -> Tensor:
        """One layer, with the memory whose parameters are given."""
        normed = layer.input_layernorm(hidden)
        own = layer.self_attn
        q, k, v = (
            p(normed).unflatten(-1, (-1, own.head_dim)).transpose(1, 2) for p in (own.q_proj, own.k_proj, own.v_proj)
        )
        places = torch.arange(hidden.shape[1])[None]
        turned = apply_rotary_pos_emb(q, k, *self.model.model.rotary_emb(hidden, places))
        out = windowed(*turned, v)
        if given is not None:
            out = out + self.far(normed, q, k, v, given, reset)
        hidden = hidden + own.o_proj(out.transpose(1, 2).flatten(2))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def far(
        self, normed: Tensor, q: Tensor, k: Tensor, v: Tensor, given: dict[str, Tensor], reset: int | None
    ) -> Tensor:
        """What the memory adds to each head [1, H, T, D]."""
        maps = Maps(Sizes(q.shape[1], k.shape[1], q.shape[3], v.shape[3]), given)
        k = k - given["mean"][:, None]
        queries = q if self.own_queries else k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        entering = torch.nn.functional.pad(maps.joined(queries, k, v), (0, 0, TAPS - 1, 0))
        document = torch.zeros(1, entering.shape[1], dtype=torch.long)
        document[:, : TAPS - 1] = -1
        tokens = maps.tokens(entering, document, normed)
        N = q.shape[2] // SEGMENT
        restart = None if reset is None else (torch.arange(N) * SEGMENT % reset == 0)[None]
        M = k.new_zeros(1, k.shape[1], k.shape[3], v.shape[3])
        return maps.leaving(read_segments(tokens, M, SEGMENT, 1, restart)[0])[0]  # type: ignore[return-value]

    def above(self, hidden: Tensor, memory: list[dict[str, Tensor]] | None, reset: int | None = None) -> Tensor:
        """What leaves the last layer, normed."""
        layers = self.model.model.layers[self.first :]
        for n, layer in enumerate(layers):
            hidden = self.through(layer, hidden, None if memory is None else memory[n], reset)
        return self.model.model.norm(hidden)


def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to the newest WINDOW tokens and the first SINKS, a block of queries after the other."""
    T = q.shape[2]
    out = []
    for a in range(0, T, WINDOW):
        b = min(T, a + WINDOW)
        begin = max(0, a - WINDOW)
        seen = torch.cat([torch.arange(min(SINKS, begin)), torch.arange(begin, b)])
        i, j = torch.arange(a, b)[:, None], seen[None]
        mask = (j <= i) & ((i - j < WINDOW) | (j < SINKS))
        out.append(scaled_dot_product_attention(q[:, :, a:b], k[:, :, seen], v[:, :, seen], mask, enable_gqa=True))
    return torch.cat(out, 2)


def pieces(loaded: Any, data: Path, count: int) -> list[Tensor]:
    """Ids [1, LENGTH] from the middle of so many training books."""
    found = []
    for file in sorted((data / "train_books").glob("*.txt")):
        text = book_text(file)
        middle = len(text) // 2
        ids = loaded.tokenizer(text[middle : middle + 8 * LENGTH], return_tensors="pt", verbose=False)["input_ids"]
        if ids.shape[1] >= LENGTH and len(found) < count:
            found.append(ids[:, :LENGTH])
    return found


def mean_keys(trial: Trial, hiddens: list[Tensor]) -> list[Tensor]:
    """The mean unrotated key of each kv head of each layer with a memory, over some pieces."""
    sums: list[Tensor] = []
    for hidden in hiddens:
        for n, layer in enumerate(trial.model.model.layers[trial.first :]):
            own = layer.self_attn
            k = own.k_proj(layer.input_layernorm(hidden)).mean(1)[0].unflatten(0, (-1, own.head_dim))
            sums[n : n + 1] = [k + (sums[n] if n < len(sums) else 0)]
            hidden = trial.through(layer, hidden, None, None)  # noqa: PLW2901
    return [x / len(hiddens) for x in sums]


def fit(
    trial: Trial, hiddens: list[Tensor], ids: list[Tensor], memory: list[dict[str, Tensor]], args: Any
) -> list[float]:
    """Train the memory; the loss of each step (nats a token)."""
    named = [(name, x.requires_grad_()) for one in memory for name, x in one.items() if name != "mean"]
    groups = [
        {"params": [x for name, x in named if (name == "s") == gate], "lr": args.lr * (4 if gate else 1)}
        for gate in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    warm = torch.optim.lr_scheduler.OneCycleLR(optimiser, [g["lr"] for g in groups], args.steps, pct_start=0.1)
    draw = torch.Generator().manual_seed(args.seed)
    losses = []
    for step in range(args.steps):
        n = step % len(ids)
        hidden = trial.above(hiddens[n], memory)
        at = FIRST + torch.randperm(LENGTH - 1 - FIRST, generator=draw)[:ASKED]
        loss = cross_entropy(trial.model.lm_head(hidden[0, at]), ids[n][0, at + 1])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([x for _, x in named], 1.0)
        optimiser.step()
        warm.step()
        losses.append(float(loss.detach()))
        if step % 5 == 0:
            print(f"step {step}: {losses[-1]:.4f}, cpu {time.process_time():.0f} s", file=sys.stderr, flush=True)
    return losses


@torch.no_grad()
def read(trial: Trial, loaded: Any, data: Path, memory: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Perplexity ratios of the memory over the window alone, and over a memory emptied every WINDOW tokens."""
    found: dict[str, Any] = {}
    for group, most in GROUPS.items():
        nll: dict[str, list[Tensor]] = {"on": [], "window": [], "reset": []}
        for file in [file for file in sorted(data.glob(group)) if not trained_on(file, data)][:most]:
            text = book_text(file)[: 8 * READ]
            ids = loaded.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][:, :READ]
            if ids.shape[1] < READ:
                continue
            below = trial.below(ids)
            for way, given, reset in (("on", memory, None), ("window", None, None), ("reset", memory, WINDOW)):
                hidden = trial.above(below, given, reset)[0, READ_FIRST:-1]
                nll[way].append(cross_entropy(trial.model.lm_head(hidden), ids[0, READ_FIRST + 1 :], reduction="none"))
            print(f"{file.name}: cpu {time.process_time():.0f} s", file=sys.stderr, flush=True)
        on, window, reset = (torch.cat(x).double() for x in nll.values())
        found[group] = {
            "texts": len(nll["on"]),
            "tokens": len(on),
            "perplexity": {way: round(float(torch.cat(x).double().mean().exp()), 3) for way, x in nll.items()},
            "on_over_window": ratio(on - window),
            "on_over_reset": ratio(on - reset),
        }
        print(group, found[group], flush=True)
    return found


def main() -> None:
    """Train, read, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=8, help="the last so many have a memory")
    parser.add_argument("--pieces", type=int, default=24)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decay", action="store_true")
    parser.add_argument("--queries", choices=("keys", "model"), default="keys")
    parser.add_argument("--work", type=Path, help="keeps what leaves the layers below")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = everlong.load("smollm2", dtype="float32", device="cpu")
    model: Any = loaded.model.requires_grad_(False)
    trial = Trial(model, len(model.model.layers) - args.layers, args.queries == "model")
    ids = pieces(loaded, args.data, args.pieces)
    kept = None if args.work is None else args.work / f"below-{args.layers}-{args.pieces}.pt"
    with torch.no_grad():
        if kept is not None and kept.is_file():
            hiddens = torch.load(kept)
        else:
            hiddens = [trial.below(x) for x in ids]
            if kept is not None:
                args.work.mkdir(parents=True, exist_ok=True)
                torch.save(hiddens, kept)
        means = mean_keys(trial, hiddens[:4])
    print(f"below: cpu {time.process_time():.0f} s", file=sys.stderr, flush=True)
    torch.manual_seed(args.seed)
    plan = ModelPatch.held(model).plan
    start = untrained(plan, model.config.hidden_size, TAPS, own=False, decay=args.decay, start=0.0)
    memory = [
        {name: x[trial.first + n].clone() for name, x in start.items()} | {"mean": means[n]} for n in range(args.layers)
    ]
    began = time.process_time()
    losses = fit(trial, hiddens, ids, memory, args)
    record: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "circumstances": circumstances(),
        "training_cpu_s": round(time.process_time() - began),
        "trained_tokens": args.steps * LENGTH,
        "parameters": sum(x.numel() for one in memory for name, x in one.items() if name != "mean"),
        "losses": [round(x, 4) for x in losses],
        "s": [[round(float(x), 4) for x in one["s"]] for one in memory],
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    record["read"] = read(trial, loaded, args.data, memory)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
