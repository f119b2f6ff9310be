"""uv and pip: run them, show their progress, and say in a student's words why one failed."""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from helpers.errors import CourseError
from helpers.setup import locks, network

ATTEMPTS, PAUSE_SECONDS = 3, 5
# Colab sets these for the making of its image; they name files that are not there any more.
COLABS_OWN = (
    *("UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE", "UV_PRERELEASE", "PIP_CONSTRAINT"),
)
# A Jupyter kernel asks for colours by these; their codes hide the words that are looked for.
COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR")
# Lines of uv and pip that tell how far they are.
PROGRESS = re.compile(r"\s*(Downloading|Downloaded|Prepared|Installing|Installed|Successfully)\b")
AGAIN = "Run this cell again; what is already installed stays."


class Reason(NamedTuple):
    """What uv or pip say when something is wrong, why it is, and what to do."""

    pattern: str
    why: str
    todo: str


NETWORK = Reason(
    # Whole phrases: "network" alone is in the name networkx too, and "500 " in the size of a file.
    r"connection (broken|refused|reset|aborted|closed|error)|connection\w*error|timed out|timeouterror"
    r"|failed to fetch|name resolution|dns error|error sending request|\bnetwork (is|was) "
    r"|response body|incompleteread|unexpected eof|\b50[0234] (server|internal|bad gateway|service|gateway)"
    r"|too many 50[0234] error",
    f"There is no network, or it failed {ATTEMPTS} times.",
    AGAIN,
)
DAMAGED = Reason(
    r"do not match the hashes|hash mismatch",
    "A file is not the one that was pinned: the download was damaged, or the list was edited.",
    f"{AGAIN} If that does not help, start anew. {locks.NEW_COPY}",
)
CACHE = Reason(
    r"failed to initialize cache|failed to open file \S*/\.cache/uv",
    "uv cannot write to its cache.",
    AGAIN,
)
INDEX = Reason(
    r"no matching distribution|no wheels|not compatible|unsatisfiable|does not match"
    r"|could not find a version|no version of|not found in the",
    f"The package index offers no such file for Python {platform.python_version()} on {platform.machine()}. "
    "A proxy or a login page may stand before it, it may be overloaded, or the list was edited.",
    f"{AGAIN} If it stays, try another network, or start anew. {locks.NEW_COPY}",
)
# The first that fits is taken.
REASONS = [
    CACHE,
    DAMAGED,
    Reason(
        r"hashes are required|require-hashes|required to have hashes|couldn't parse|invalid requirement",
        "The list of pinned packages was edited: an entry is not complete.",
        locks.NEW_COPY,
    ),
    Reason(
        r"no space left|disk quota",
        "The disk is full.",
        f"Delete what you do not need, such as old runs in the workspace. {AGAIN}",
    ),
    Reason(
        r"permission denied|read-only file system|not writeable|externally.managed",
        "Python's folder for packages may not be written to here.",
        "On your own machine run `make lab`: it makes a folder of its own. On Colab restart the session.",
    ),
    Reason(
        r"no module named '?pip\b",
        "This Python has neither uv nor pip, and one of them has to install packages.",
        "On your own machine run `make lab`: it sets up a Python with pip. On Colab restart the session.",
    ),
    NETWORK,
    INDEX,
]
UNKNOWN = Reason("", "There may be no network, or too little disk space.", AGAIN)


def commands(requirements: Path) -> list[list[str]]:
    """uv, where it is to be had, and pip, in the order in which to try them."""
    options = ["--no-deps", "--require-hashes", "-r", str(requirements)]
    pip = [sys.executable, "-m", "pip", "install", "--progress-bar", "off"]
    pip += ["--disable-pip-version-check", *options]
    if not shutil.which("uv"):
        return [pip]
    outside = [] if sys.prefix != sys.base_prefix else ["--system"]
    return [["uv", "pip", "install", "--python", sys.executable, *outside, *options], pip]


def install(requirements: Path) -> None:
    """Run an installer, again if the download fails; the next one if it fails for no known reason.

    Raises:
        CourseError: none worked; what the last one said, in words a student can use.
    """
    for command in commands(requirements):
        for attempt in range(1, ATTEMPTS + 1):
            code, said = _run(command)
            if code == 0:
                return
            if reason_for(said) not in (NETWORK, DAMAGED, INDEX) or attempt == ATTEMPTS:
                break
            print(f"The download failed; trying again ({attempt + 1} of {ATTEMPTS}) …", flush=True)
            time.sleep(PAUSE_SECONDS)
        if reason_for(said) not in (UNKNOWN, CACHE):
            break
    # uv names the package in the lines after the error.
    error = re.search(r"^\s*(error|×).*", said, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    lines = [error[0]] if error else said.strip().splitlines()[-1:]
    words = network.hide(" ".join(" ".join(lines).split()))
    reason = reason_for(said)
    raise CourseError(
        f"The packages could not be installed: {words[:500] or 'no word from the installer'}",
        reason.why,
        reason.todo,
    )


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command, show its progress as it comes; its exit code and all it said."""
    left_out = (*COLABS_OWN, *COLOURS)
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=kept | {"NO_COLOR": "1"},
        )
    except OSError as error:
        # A program for another machine, or a script whose interpreter is gone.
        return 127, f"{command[0]} cannot be started ({type(error).__name__})"
    said = []
    for line in process.stdout:
        said.append(line)
        if PROGRESS.match(line):
            print(" ", network.hide(line.strip()), flush=True)
    return process.wait(), "".join(said)


def reason_for(said: str) -> Reason:
    fitting = (r for r in REASONS if re.search(r.pattern, said, re.IGNORECASE))
    return next(fitting, UNKNOWN)
