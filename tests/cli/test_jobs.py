"""Jobs side by side: results in order, errors raised, a process that dies is not waited for."""

from __future__ import annotations

import os
import signal

import pytest

from everlong.cli.console import Console
from everlong.cli.jobs import Job, run_jobs
from everlong.errors import CapabilityError, InputError

pytestmark = pytest.mark.heavy(reason="jobs are processes of their own, which import torch")
QUIET = Console(quiet=True)


def double(x, advance):
    advance(x, "words")
    return 2 * x


def refuse(advance):
    raise InputError("no such thing; give another")


def die(advance):
    os.kill(os.getpid(), signal.SIGKILL)


def wait(advance):
    import time

    time.sleep(600)


def test_results_come_in_order_and_progress_is_shown(capsys, monkeypatch):
    monkeypatch.setattr("everlong.cli.console._LINE_EVERY_S", 0.0)
    assert run_jobs([Job(str(n), n, double, (n,)) for n in (3, 1)], 2, Console()) == [6, 2]
    assert "3 3 / 3 tokens  words" in capsys.readouterr().err


def test_an_error_of_a_job_is_raised_and_the_others_end():
    with pytest.raises(InputError, match="no such thing"):
        run_jobs([Job("wait", 1, wait, ()), Job("refuse", 1, refuse, ())], 2, QUIET)


def test_a_process_that_dies_is_an_error():
    with pytest.raises(CapabilityError, match=r"die: its process ended \(exit code -9\)"):
        run_jobs([Job("die", 1, die, ())], 1, QUIET)
