"""Processes of their own that begin with Unsloth imported: like fresh ones, and six seconds sooner.

Python's fork server imports it once and is forked for each process, which gets the variables of the test that starts it.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import torch

KIT = Path(__file__).resolve().parents[2]


@cache
def _context():
    # What has a GPU in use cannot be forked.
    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    forkserver.set_forkserver_preload(["tiny_run", "helpers.plots"])
    before = os.environ.get("PYTHONPATH")
    # Before Python 3.13 the server does not get this process's sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, [KIT, KIT / "tests", KIT / "tests/unit"]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return multiprocessing.get_context("forkserver")


def _run(function: Callable, arguments: tuple, variables: dict, folder: str, output: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # What a process printed shall be there when it is killed.
    sys.stdout.reconfigure(line_buffering=True)
    function(*arguments)


def execute(code: str) -> None:
    """Run code as `python -c` does."""
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})  # noqa: S102


class Process:
    """A function in a process of its own, with what tests need of `subprocess.Popen`."""

    def __init__(self, function: Callable, *arguments, **variables: str):
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name, "output.txt")
        self._output.touch()
        variables = dict(os.environ) | variables
        asked = (function, arguments, variables, os.getcwd(), str(self._output))
        self._process = _context().Process(target=_run, args=asked)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of `subprocess.Popen`: a signal's number is negative; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it printed, on both ways.

        Raises:
            subprocess.TimeoutExpired: it did not end in so many seconds.
        """
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.said(), ""

    def said(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")
