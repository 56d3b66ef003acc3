"""Parts of a command that run side by side, each in a process of its own, while this one shows how far they are."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from everlong.cli.console import Console
from everlong.errors import CapabilityError

PATIENCE_S = 0.2


@dataclass(frozen=True)
class Job:
    """`run(*arguments, advance)` in a process of its own: a function of a module, told what it needs in plain values.

    `tokens` is how many it will read, for the progress.
    """

    name: str
    tokens: int
    run: Callable[..., Any]
    arguments: tuple[Any, ...]


def run_jobs(jobs: list[Job], cores: int | None, console: Console) -> list[Any]:
    """The results of `jobs`, in order; as many at a time as there are `cores` (all of them if None).

    The first error of a job is raised, and the others are ended.
    """
    cores = cores or _cores()
    side_by_side = min(len(jobs), cores)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    waiting = list(jobs)
    results = dict[str, Any]()
    running: dict[str, Any] = {}
    try:
        with console.progresses({job.name: job.tokens for job in jobs}) as advance:
            while len(results) < len(jobs):
                while waiting and len(running) < side_by_side:
                    job = waiting.pop(0)
                    running[job.name] = context.Process(
                        target=_run, args=(job, cores // side_by_side, told), daemon=True
                    )
                    running[job.name].start()
                _listen(told, running, results, advance)
        return [results[job.name] for job in jobs]
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listen(
    told: Any, running: dict[str, Any], results: dict[str, Any], advance: Callable[[str, int, str], None]
) -> None:
    """Take one message of the jobs; CapabilityError for one that ended without a last word."""
    ended = [name for name, process in running.items() if not process.is_alive()]
    try:
        kind, name, *rest = told.get(timeout=PATIENCE_S)
    except queue.Empty:
        for name in ended:
            code = running[name].exitcode
            raise CapabilityError(f"{name}: its process ended (exit code {code}); is there memory enough?") from None
        return
    if kind == "advance":
        advance(name, *rest)
        return
    running.pop(name).join()
    if kind == "failed":
        raise rest[0]
    results[name] = rest[0]


def _run(job: Job, threads: int, told: Any) -> None:
    """In the new process; an interrupt is for the parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        result = job.run(*job.arguments, lambda done, words: told.put(("advance", job.name, done, words)))
        told.put(("done", job.name, result))
    except Exception as error:  # noqa: BLE001 (raised again by the parent)
        told.put(("failed", job.name, error))
