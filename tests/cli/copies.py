"""The command line in a copy of this process: signals reach it as they would, and nothing is imported again."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from everlong.cli.main import main


class Copy:
    """What `subprocess.Popen` gives, as far as the tests need it."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = (os.pipe() for _ in range(3))
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            for end in (to_stdin, from_stdout, from_stderr):
                os.close(end)
            _become(arguments, folder, (stdin, stdout, stderr))
        for end in (stdin, stdout, stderr):
            os.close(end)
        self.stdin = open(to_stdin, "w")  # noqa: PTH123, SIM115 (descriptors, closed by `communicate`)
        self.stdout, self.stderr = open(from_stdout), open(from_stderr)  # noqa: PTH123, SIM115

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)

    def communicate(self, text: str = "", timeout: float = 120) -> tuple[str, str]:
        """What it says until its end, which comes within `timeout` seconds; both fit into the pipes."""
        if self.stdin.closed:
            return "", ""
        with self.stdin, self.stdout, self.stderr:
            if self.returncode is None and text:
                self.stdin.write(text)
            self.stdin.close()
            until = time.monotonic() + timeout
            while self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
                assert time.monotonic() < until, "it does not end"
                time.sleep(0.02)
            return self.stdout.read(), self.stderr.read()


def _become(arguments: list[str], folder: Path, ends: tuple[int, int, int]) -> NoReturn:
    """Run the command line on these ends of pipes, and end with its code."""
    code = 1
    try:
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            signal.signal(number, handler)
        for number, end in enumerate(ends):
            os.dup2(end, number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode) for n, mode in enumerate("rww"))  # noqa: PTH123, SIM115
        sys.stdout.reconfigure(write_through=True)
        sys.stderr.reconfigure(write_through=True)
        os.chdir(folder)
        sys.argv = ["everlong", *arguments]
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:  # noqa: BLE001 (shown to the test)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
