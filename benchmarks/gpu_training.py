r"""Trainings and their evaluations side by side on one GPU and its CPU cores, in so many minutes.

    python benchmarks/gpu_training.py --data DATA --work build/gpu_training --out OUT --minutes 7
    python benchmarks/gpu_training.py --data DATA --work build/gpu_training --out OUT2 --minutes 5 \
        --parts table --seeds 2,3 --methods "delta, decay;transformer_xl, faithful"

Three parts. `table`: the methods of trained_perplexity.py, with as many parameters each, at --tokens (10 times those of
the recipe) by the GPU; before they begin, all train a few steps at once, and if the slowest would not be done in time
all get the same smaller number of steps. `natural`: recipes/train/delta-natural.yaml by the GPU, with larger batches.
`names`: recipes/train/delta-names.yaml from three seeds, and one with up to eight keys, by CPU cores, one each; their
pass keys are asked for as soon as one is trained, a process for each length and control.

Every process writes what it has into a folder of its own under --out as it goes; training stops at the limit and what
is trained by then is measured (`stopped` says so), evaluations end with the samples they have. summary.json is written
anew whenever something is done. The same command again goes on: trainings that came to their end, or to the limit, are
not begun again, and steps once agreed on hold for later seeds too. --work keeps tokenised books.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "train"
TABLE = ("delta, decay", "transformer_xl, faithful", "infini, delta", "window", "delta, decay, no projections")
LEFT_S = {"table": 60, "natural": 90, "names": 10}
"""What is left for reading test books, or for asking for keys, when training must stop."""
KEYS = {"names": ([1, 3], [1, 4], [1, 4]), "names8": ([1, 3], [1, 6], [1, 8])}
DEPTHS = tuple(n / 10 for n in range(10))


@dataclass
class Job:
    """A process: what it is called, its command, whether the GPU is its device; when it may begin."""

    name: str
    command: list[str]
    gpu: bool
    after: str = ""
    books: str = ""
    """Which tokenised books it waits for."""
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    seconds: float = 0.0


@dataclass
class Plan:
    """All jobs of a call, and how many of each kind run at once."""

    args: argparse.Namespace
    end: float
    jobs: list[Job] = field(default_factory=list)

    def train(self, name: str, kind: str, content: dict[str, Any], gpu: bool, **more: Any) -> None:
        """A training, whose recipe and limits lie in its folder."""
        folder = self.args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.scale < 1:
            content["held_out"] = 2
        given = {"name": name, "kind": kind, "recipe": content, "stop_at": self.end - LEFT_S[kind], **more}
        given |= {"data": str(self.args.data), "work": str(self.args.work)}
        (folder / "job.json").write_text(json.dumps(given, indent=1), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(folder)]
        done = 0 if (folder / "found.json").is_file() else None
        self.jobs.append(Job(name, command, gpu, books="" if kind == "names" else kind, code=done))

    def ask(self, of: str, needles: int, length: str, depths: tuple[float, ...], samples: int, *more: str) -> None:
        """Pass keys for the model of a training."""
        what = "-".join([f"{needles}keys", length, *more[1::2], *([f"{depths[0]}"] if len(depths) == 1 else [])])
        folder = self.args.out / of / "asked" / what.replace("=", "-").replace(":", "-")
        command = [sys.executable, "-m", "everlong", "eval", "passkey", "--model", str(self.args.out / of / "model")]
        command += ["--device", "cpu", "--threads", "1", "--chunk", "2048", "--seed", "7", "-t", f"needles={needles}"]
        command += ["--lengths", length, "--depths", ",".join(map(str, depths)), "--samples", str(samples), *more]
        command += ["--data", str(self.args.data), "--out", str(folder), "--quiet"]
        done = 0 if (folder / "summary.json").is_file() else None
        self.jobs.append(Job(f"{of}/{folder.name}", command, gpu=False, after=of, code=done))


def table_jobs(plan: Plan) -> None:
    """Each method from each seed."""
    from trained_perplexity import content_of, folder_of

    for seed in plan.args.seeds.split(","):
        for name in plan.args.methods.split(";"):
            content = content_of(name) | {"seed": int(seed), "log_every": 25, "checkpoint_every": 10**6}
            (stage,) = content["stages"]
            stage["batch"] = plan.args.batch
            stage["steps"] = max(1, round(plan.args.tokens / stage["batch"] / stage["length"]))
            plan.train(f"table-{folder_of(name).replace(' ', '_')}-{seed}", "table", content, gpu=True, method=name)


def natural_jobs(plan: Plan) -> None:
    """Keys in the text of books: twice the steps of the recipe and twice the rows, and lengths that it never saw."""
    for seed in plan.args.seeds.split(","):
        content = yaml.safe_load((RECIPES / "delta-natural.yaml").read_text(encoding="utf-8"))
        content |= {"seed": int(seed), "checkpoint_every": 10**6}
        for stage in content["stages"]:
            stage["steps"] = max(1, round(stage["steps"] * 2 * plan.args.scale))
            stage["batch"] = max(1, round(stage["batch"] * 2 * plan.args.scale))
            stage["data"]["natural"]["data"] = str(plan.args.work / "natural" / "train_books")
        content["scratch"]["books"] = str(plan.args.work / "natural" / "train_books")
        name = f"natural-{seed}"
        plan.train(name, "natural", content, gpu=True)
        books = ("-t", "filler=books")
        for length, samples in (("32K", 4), ("4K", 4), ("128K", 1)):
            plan.ask(name, 2, length, DEPTHS, samples, *books)
        for control in ("off", "zeroed", "reset:256"):
            plan.ask(name, 2, "32K", DEPTHS, 1, *books, "-o", f"memory={control}")


def names_jobs(plan: Plan) -> None:
    """Keys in dull filler, by CPU cores."""
    runs = [("names", 1), ("names", 2), ("names", 3), ("names8", 1)]
    for kind, seed in runs:
        content = yaml.safe_load((RECIPES / "delta-names.yaml").read_text(encoding="utf-8")) | {"seed": seed}
        for stage, needles in zip(content["stages"], KEYS[kind], strict=True):
            stage["data"]["needles"]["needles"] = needles
            stage["steps"] = max(1, round(stage["steps"] * plan.args.scale * (1.5 if kind == "names8" else 1)))
        plan.train(f"{kind}-{seed}", "names", content, gpu=False)
    wanted = [(length, n) for length in ("32K", "4K") for n in (2, 4)]
    for name in ("names-1", "names-2", "names-3"):
        for length, n in wanted:
            plan.ask(name, n, length, DEPTHS, 4)
    for length in ("32K", "4K"):
        plan.ask("names8-1", 8, length, DEPTHS, 4)
    for name in ("names-1", "names-2", "names-3"):
        for n in (2, 4):
            plan.ask(name, n, "128K", DEPTHS, 1)
            for control in ("off", "zeroed", "reset:256"):
                plan.ask(name, n, "32K", DEPTHS, 2, "-o", f"memory={control}")
    plan.ask("names8-1", 8, "128K", DEPTHS, 1)
    for n in (2, 4):
        for depth in (0.1, 0.3, 0.5, 0.7, 0.9):
            for name in ("names-3", "names-2", "names-1"):
                plan.ask(name, n, "1M", (depth,), 1)


def run_all(plan: Plan) -> None:
    """Start what may run, in the order of the list, until all is done or the time is over."""
    args = plan.args
    wanted = sorted({job.books for job in plan.jobs if job.books and job.code is None})
    prepare = [sys.executable, __file__, "--data", str(args.data), "--work", str(args.work), "--prepare"]
    books = {kind: subprocess.Popen([*prepare, kind]) for kind in wanted}
    began = time.time()
    planned = False
    while time.time() < plan.end and any(job.code is None for job in plan.jobs):
        done = {job.name for job in plan.jobs if job.code == 0}
        for gpu, most in ((True, args.gpu_jobs), (False, args.cpu_jobs)):
            running = sum(job.process is not None and job.code is None and job.gpu == gpu for job in plan.jobs)
            for job in plan.jobs:
                ready = (not job.after or job.after in done) and (not job.books or books[job.books].poll() == 0)
                if job.process is None and job.code is None and job.gpu == gpu and ready and running < most:
                    start(job, args)
                    running += 1
        if not planned:
            planned = agree(plan)
        for job in plan.jobs:
            if job.process is not None and job.code is None and (code := job.process.poll()) is not None:
                job.code, job.seconds = code, time.time() - began
                print(f"{job.seconds:.0f} s: {job.name} ended with {code}", flush=True)
                summary(plan)
        if any(process.poll() not in (None, 0) for process in books.values()):
            sys.exit("gpu_training.py: the books could not be prepared (see above)")
        time.sleep(0.2)
    for job in plan.jobs:
        if job.process is not None and job.process.poll() is None:
            job.process.terminate()
    summary(plan)


def start(job: Job, args: argparse.Namespace) -> None:
    """Begin a process, which sees the GPU only if it is its device."""
    log = args.out / "logs" / f"{job.name.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", EVERLONG_DATA=str(args.data))
    if not job.gpu or args.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("wb") as out:
        job.process = subprocess.Popen(job.command, stdout=out, stderr=subprocess.STDOUT, env=env)


def agree(plan: Plan) -> bool:
    """Whether all that run of the table know how many steps they take: as many as the slowest of them can."""
    table = [plan.args.out / job.name for job in plan.jobs if job.name.startswith("table-") and job.code is None]
    if not table or (plan.args.out / "steps.json").is_file():
        return True
    first = table[: plan.args.gpu_jobs]
    if not all((folder / "probe.json").is_file() for folder in first):
        return False
    slowest = max(json.loads((folder / "probe.json").read_text())["seconds_per_step"] for folder in first)
    left = plan.end - LEFT_S["table"] - time.time()
    wanted = json.loads((table[0] / "job.json").read_text())["recipe"]["stages"][0]["steps"]
    rounds = -(-len(table) // plan.args.gpu_jobs)
    steps = max(1, min(wanted, int(0.85 * left / rounds / slowest)))
    print(f"table: {slowest:.3f} s a step, {steps} of {wanted} steps", flush=True)
    (plan.args.out / "steps.json").write_text(json.dumps({"steps": steps, "wanted": wanted, "slowest_s": slowest}))
    return True


def summary(plan: Plan) -> None:
    """All results so far in one file."""
    found: dict[str, Any] = {"command": " ".join(sys.argv), "jobs": {}, "trained": {}, "asked": {}}
    for job in plan.jobs:
        found["jobs"][job.name] = {"code": job.code, "ended_s": round(job.seconds, 1)}
    for file in (*sorted(plan.args.out.glob("*/trained.json")), *sorted(plan.args.out.glob("*/found.json"))):
        found["trained"][file.parent.name] = json.loads(file.read_text(encoding="utf-8"))
    for file in sorted(plan.args.out.glob("*/asked/*/records.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        right = sum(row["score"] for row in rows if row.get("score") is not None)
        found["asked"][f"{file.parents[2].name}/{file.parent.name}"] = {"right": right, "n": len(rows)}
    draft = plan.args.out / "summary.part"
    draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draft.replace(plan.args.out / "summary.json")


def begin(args: argparse.Namespace) -> None:
    """Make the list of jobs and run it."""
    plan = Plan(args, time.time() + 60 * args.minutes)
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    parts = {"table": table_jobs, "natural": natural_jobs, "names": names_jobs}
    for part in args.parts.split(","):
        parts[part](plan)
    run_all(plan)


def main() -> None:
    """The call that starts the others, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda x: Path(x).resolve(), help="train_books, pg19, books, math")
    parser.add_argument("--work", type=lambda x: Path(x).resolve())
    parser.add_argument("--out", type=lambda x: Path(x).resolve())
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--parts", default="table,natural,names")
    parser.add_argument("--methods", default=";".join(TABLE))
    parser.add_argument("--seeds", default="1", help="of table and natural")
    parser.add_argument("--tokens", type=float, default=52_428_800, help="of each training of the table")
    parser.add_argument("--batch", type=int, default=32, help="rows of 2,048 tokens in a step of the table")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps of the other parts (below 1: a trial)")
    parser.add_argument("--gpu-jobs", type=int, default=7)
    parser.add_argument("--cpu-jobs", type=int, default=max(1, (os.cpu_count() or 1) - 6))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        from gpu_worker import work

        work(args.worker)
    elif args.prepare:
        from gpu_worker import prepare

        prepare(args.prepare, args.data, args.work)
    else:
        begin(args)


if __name__ == "__main__":
    main()
