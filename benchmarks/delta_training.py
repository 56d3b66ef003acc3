r"""The delta rule of one layer: products of whole segments against one token after the other.

    python benchmarks/delta_training.py --out benchmarks/results/delta_training.json

Forward and backward in float32, one thread, the two in turn, CPU seconds; both compute the same outputs and gradients
(the record has their difference). Sizes: a layer of everlong/delta-names on two rows of its last stage, a wider one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from everlong.machine import circumstances
from everlong.ops.delta import Writes, feature_count, features, read_segments

SHAPES = {
    "4 heads of 16": (2, 4, 16, 2),
    "4 heads of 16, degree 1": (2, 4, 16, 1),
    "9 heads of 64, degree 1": (1, 9, 64, 1),
}
TOKENS, SEGMENT = 2048, 128


def loop(tokens: Writes, M: Tensor, degree: int) -> Tensor:
    """The rule as it is written."""
    q, k = features(tokens.q, degree).unbind(2), features(tokens.k, degree).unbind(2)
    v, b = tokens.v.unbind(2), tokens.b.unbind(2)
    out = []
    for t in range(len(q)):
        news = v[t] - (k[t][:, :, None] @ M)[:, :, 0]
        M = M + (b[t][..., None] * k[t])[..., None] * news[:, :, None]
        out.append((q[t][:, :, None] @ M)[:, :, 0])
    return torch.stack(out, 2)


def step(work: Callable[[], Tensor], given: list[Tensor]) -> tuple[float, Tensor]:
    """(CPU seconds of one forward and backward, the gradients)."""
    start = time.process_time()
    gradients = torch.autograd.grad(work().square().mean(), given)
    return time.process_time() - start, torch.cat([g.flatten() for g in gradients])


def main() -> None:
    """Run, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (B, H, D, degree) in SHAPES.items():
        torch.manual_seed(0)
        q, k = (torch.nn.functional.normalize(torch.randn(B, H, TOKENS, D), dim=-1).requires_grad_() for _ in range(2))
        v = torch.randn(B, H, TOKENS, D).requires_grad_()
        b = torch.rand(B, H, TOKENS).requires_grad_()
        tokens = Writes(q, k, v, b, None)
        M = torch.zeros(B, H, feature_count(D, degree), D)
        forms: dict[str, Callable[[], Tensor]] = {
            "parallel": lambda t=tokens, m=M, d=degree: read_segments(t, m, SEGMENT, d)[0],
            "loop": lambda t=tokens, m=M, d=degree: loop(t, m, d),
        }
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        gradients: dict[str, Tensor] = {}
        for _ in range(args.repeats):
            for form, work in forms.items():
                spent, gradients[form] = step(work, [q, k, v, b])
                seconds[form].append(spent)
        medians = {form: statistics.median(values) for form, values in seconds.items()}
        difference = float((gradients["parallel"] - gradients["loop"]).norm() / gradients["loop"].norm())
        rows.append(
            {
                "layer": name,
                **{f"{form}_cpu_s": round(medians[form], 4) for form in forms},
                "spread": {form: round((max(v) - min(v)) / medians[form], 3) for form, v in seconds.items()},
                "loop_over_parallel": round(medians["loop"] / medians["parallel"], 2),
                "gradient_difference": difference,
            }
        )
        print(rows[-1], flush=True)
    sizes = {"segment": SEGMENT, "tokens": TOKENS, "repeats": args.repeats}
    record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "sizes": sizes, "rows": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
