"""Bring packages to their pinned versions, with uv or pip, and say what went wrong if it does."""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from helpers import locks
from helpers.errors import CourseError

ATTEMPTS, PAUSE_SECONDS = 3, 5
COLABS_OWN = ("UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE", "UV_PRERELEASE")
# Lines of uv and pip that tell how far they are.
PROGRESS = re.compile(r"\s*(Downloading|Downloaded|Prepared|Installing|Installed|Successfully)\b")
AGAIN = "Run this cell again; what is already installed stays."
NEW_COPY = "Get the course again: delete its folder, then run the notebook's first cell."


class Reason(NamedTuple):
    """What uv or pip say when something is wrong, why it is, and what to do."""

    pattern: str
    why: str
    todo: str


NETWORK = Reason(
    r"connection|timed out|failed to fetch|name resolution|dns error|error sending request"
    r"|network|incompleteread|unexpected eof|50[0234] ",
    f"There is no network, or it failed {ATTEMPTS} times.",
    AGAIN,
)
DAMAGED = Reason(
    r"do not match the hashes|hash mismatch",
    "A file is not the one that was pinned: the download was damaged, or the list was edited.",
    f"{AGAIN} If that does not help: {NEW_COPY[0].lower()}{NEW_COPY[1:]}",
)
# The first that fits is taken.
REASONS = [
    DAMAGED,
    Reason(
        r"hashes are required|require-hashes|required to have hashes|couldn't parse|invalid requirement",
        "The list of pinned packages was edited: an entry is not complete.",
        NEW_COPY,
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
    NETWORK,
    Reason(
        r"no matching distribution|no wheels|not compatible|unsatisfiable|does not match"
        r"|could not find a version|no version of|not found in the",
        f"There is no file of it for Python {platform.python_version()} on {platform.machine()}. "
        f"The list was proven with Python {', '.join(locks.PYTHONS)}.",
        "On Colab choose another runtime version: command palette (Ctrl+Shift+P) > "
        "Change runtime version. On your own machine use one of these versions of Python.",
    ),
]
UNKNOWN = Reason("", "There may be no network, or too little disk space.", AGAIN)


def installed_version(package: str) -> str | None:
    """A package's version; None where it is absent or an interrupted installation left a part of it."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    # Installers write RECORD last.
    return found.version if found.read_text("RECORD") is not None else None


def bring(packages: list[str]) -> None:
    """Install these packages as the lock file pins them, and nothing else.

    Raises:
        CourseError: the installation failed; or it moved a package that must not move; or a package that
            was replaced is already loaded, and the session has to be restarted.
    """
    before = {name: installed_version(name) for name in locks.UNTOUCHED}
    loaded = [name for name in packages if name.replace("-", "_") in sys.modules]
    print(f"Installing {len(packages)} packages: {', '.join(packages)} …", flush=True)
    for name in packages:
        _clear_rest(name)
    text = locks.lock_file().read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    chosen = [block for block in blocks if locks.canonical(block.split("==")[0]) in packages]
    with tempfile.TemporaryDirectory() as folder:
        subset = Path(folder) / "subset.txt"
        subset.write_text("".join(chosen), encoding="utf-8")
        _run_until_done(_commands(subset))
    importlib.invalidate_caches()
    moved = [name for name in before if before[name] not in (None, installed_version(name))]
    if moved:
        raise CourseError(
            f"The installation changed {', '.join(moved)}.",
            "Other packages on this machine are built for the earlier version.",
            "Delete the runtime (menu Runtime > Disconnect and delete runtime), and report this.",
        )
    if loaded:
        _offer_restart()
        raise CourseError(
            f"{', '.join(loaded)} had been loaded before it was replaced.",
            "Python keeps the old version in memory.",
            "Restart the session (menu Runtime > Restart session), then run the cells from the top.",
        )


def _commands(requirements: Path) -> list[list[str]]:
    """uv, where it is to be had, and pip, in the order in which to try them."""
    options = ["--no-deps", "--require-hashes", "-r", str(requirements)]
    pip = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", *options]
    if not shutil.which("uv"):
        return [pip]
    outside = [] if sys.prefix != sys.base_prefix else ["--system"]
    return [["uv", "pip", "install", "--python", sys.executable, *outside, *options], pip]


def _run_until_done(commands: list[list[str]]) -> None:
    """Run an installer, again if the download fails; the next one if it fails for no known reason.

    Raises:
        CourseError: none worked; what the last one said, in words a student can use.
    """
    for command in commands:
        for attempt in range(1, ATTEMPTS + 1):
            code, said = _run(command)
            if code == 0:
                return
            if _reason(said) not in (NETWORK, DAMAGED) or attempt == ATTEMPTS:
                break
            print(f"The download failed; trying again ({attempt + 1} of {ATTEMPTS}) …", flush=True)
            time.sleep(PAUSE_SECONDS)
        if _reason(said) is not UNKNOWN:
            break
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error|×|╰|ERROR", line)] or lines[-1:]
    reason = _reason(said)
    raise CourseError(
        f"The packages could not be installed: {' '.join(errors)[:500] or 'no word from the installer'}",
        reason.why,
        reason.todo,
    )


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command, show its progress as it comes; its exit code and all it said."""
    # Colab sets these for the making of its image; they name files that are not there any more.
    kept = {name: value for name, value in os.environ.items() if name not in COLABS_OWN}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if PROGRESS.match(line):
            print(" ", line.strip(), flush=True)
    return process.wait(), "".join(said)


def _reason(said: str) -> Reason:
    fitting = (r for r in REASONS if re.search(r.pattern, said, re.IGNORECASE))
    return next(fitting, UNKNOWN)


def _clear_rest(package: str) -> None:
    """Remove what an interrupted installation left: without RECORD no installer replaces it."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return
    folder = (
        Path(str(found.locate_file(""))) / f"{package.replace('-', '_')}-{found.version}.dist-info"
    )
    if found.read_text("RECORD") is None and folder.is_dir():
        shutil.rmtree(folder)


def _offer_restart():
    """On Colab, show a button that restarts the session, and return it.

    The kernel is ended as hard as can be: Colab, like Jupyter, starts a new one at once.
    """
    if not locks.on_colab():
        return None
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        return None
    button = ipywidgets.Button(description="Restart session", button_style="warning")
    button.on_click(lambda _: os.kill(os.getpid(), signal.SIGKILL))
    display(button)
    return button
