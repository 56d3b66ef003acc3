"""Parts of a command that run side by side, each in a process of its own, while this one shows how far they are."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlong.cli.console import Advance, Console

_reports: Any = None


@dataclass(frozen=True)
class Job:
    """`run(*arguments, advance)` in another process: a function of a module, told what it needs in plain values."""

    name: str
    tokens: int
    run: Callable[..., Any]
    arguments: tuple[Any, ...]


def run_jobs(jobs: list[Job], cores: int | None, console: Console) -> list[Any]:
    """The results of `jobs`, in order; as many at a time as there are `cores` (all of them if None).

    The first error of a job is raised, and the others are ended.
    """
    cores = cores or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores or os.cpu_count() or 1
    workers = min(len(jobs), cores)
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    pool = ProcessPoolExecutor(workers, context, _prepare, (reports, cores // workers))
    try:
        found = [pool.submit(_run, job) for job in jobs]
        with console.progresses({job.name: job.tokens for job in jobs}) as advance:
            _watch(found, reports, advance)
        return [future.result() for future in found]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _watch(found: list[Future[Any]], reports: Any, advance: Callable[[str, int, str], None]) -> None:
    """Pass on what the jobs report until all are done or one has failed."""
    while not all(future.done() for future in found):
        for future in found:
            if future.done():
                future.result()
        try:
            advance(*reports.get(timeout=0.2))
        except queue.Empty:
            continue


def _prepare(reports: Any, threads: int) -> None:
    """In a new process: an interrupt is for the parent to handle."""
    global _reports  # noqa: PLW0603
    import torch

    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _run(job: Job) -> Any:
    def advance(done: int, words: str) -> None:
        _reports.put((job.name, done, words))

    told: Advance = advance
    return job.run(*job.arguments, told)
