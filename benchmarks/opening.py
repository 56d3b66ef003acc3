"""What opening a model takes: CPU time, peak memory and bytes written, the first time and later.

Each opening is a process of its own with one thread, and the first has an empty cache. CPU time is that of the call
of `everlong.load`, without the import of torch and transformers; memory is the peak of the whole process, them
included, and what they take without a model is told beside. The digest is one of the logits of 57 tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = "measure"


def measure(model: str, dtype: str, weights: str) -> None:
    """One opening, in this process; prints an object."""
    import resource

    import torch

    import everlong
    from everlong.hooks import adapter  # noqa: F401 (imported before time is taken)

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    loaded = everlong.load(model, dtype=dtype, weights=weights)
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        logits = loaded.model(torch.arange(3, 60)[None]).logits.float()
    digest = hashlib.sha256(logits.numpy().tobytes()).hexdigest()[:12]
    print(json.dumps({"cpu_s": spent, "peak_mb": peak / 1024, "bare_mb": before / 1024, "logits": digest}))


def opened(model: str, dtype: str, weights: str, cache: str) -> dict[str, float | str]:
    """One opening in a new process."""
    command = [sys.executable, __file__, COMMAND, model, dtype, weights]
    environment = os.environ | {"EVERLONG_CACHE": cache, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    """Run and print a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--forms", nargs="+", default=["float32/full", "bfloat16/full", "bfloat16/file"])
    parser.add_argument("--times", type=int, default=3, help="later openings, of which the median is told")
    args = parser.parse_args()
    for form in args.forms:
        dtype, weights = form.split("/")
        with tempfile.TemporaryDirectory() as cache:
            first = opened(args.model, dtype, weights, cache)
            written = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
            later = [opened(args.model, dtype, weights, cache) for _ in range(args.times)]
        spent = statistics.median(float(one["cpu_s"]) for one in later)
        print(
            f"{form}: first {first['cpu_s']:.2f} CPU-seconds, later {spent:.2f} "
            f"({min(float(one['cpu_s']) for one in later):.2f} to {max(float(one['cpu_s']) for one in later):.2f}); "
            f"peak {later[0]['peak_mb']:.0f} MB, {later[0]['bare_mb']:.0f} without a model; "
            f"written {written / 1e6:.1f} MB; logits {first['logits']}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == [COMMAND]:
        measure(*sys.argv[2:])
    else:
        main()
