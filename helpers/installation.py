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
# Packages that were replaced while they were loaded: only a restart brings the new version.
_stale: set[str] = set()


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
# The first that fits is taken.
REASONS = [
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
    Reason(
        r"no matching distribution|no wheels|not compatible|unsatisfiable|does not match"
        r"|could not find a version|no version of|not found in the",
        f"There is no file of it for Python {platform.python_version()} on {platform.machine()}. "
        f"The list was proven with Python {', '.join(locks.PYTHONS)}.",
        locks.OTHER_PYTHON,
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
        CourseError: one of them must not be replaced; or the installation failed, moved one that must not
            move, or did not bring what is pinned; or a package that was replaced is already loaded, and the
            session has to be restarted.
    """
    untouched = {name: found for name in locks.UNTOUCHED if (found := installed_version(name))}
    if asked := [name for name in packages if name in untouched]:
        raise CourseError(
            f"The list asks for another {', '.join(asked)} than the one that is here; nothing was changed.",
            "Other packages on this machine are built for the version that is here.",
            f"{locks.NEW_COPY} On your own machine run `make lab`: it makes a folder of its own.",
        )
    loaded = {name: installed_version(name) for name in packages if _loaded(name)}
    print(f"Installing {len(packages)} packages: {', '.join(packages)} …", flush=True)
    for name in packages:
        _clear_rest(name)
    blocks = re.split(r"^(?=[A-Za-z0-9])", locks.read(locks.lock_file()), flags=re.MULTILINE)
    chosen = [block for block in blocks if not locks.versions(block).keys().isdisjoint(packages)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            subset = Path(folder) / "subset.txt"
            subset.write_text("".join(chosen), encoding="utf-8")
            _run_until_done(_commands(subset))
    finally:
        # An installation that fails or is stopped may have replaced some.
        importlib.invalidate_caches()
        _stale.update(_moved(loaded))
    if moved := _moved(untouched):
        raise CourseError(
            f"The installation changed {', '.join(moved)}.",
            "Other packages on this machine are built for the earlier version.",
            "Delete the runtime (menu Runtime > Disconnect and delete runtime), and report this.",
        )
    pins = locks.pins()
    still = [
        f"{n} {installed_version(n) or 'absent'}" for n in _moved({n: pins[n] for n in packages})
    ]
    if still:
        raise CourseError(
            f"The installer is done, but this is not what the list pins: {', '.join(still)}.",
            "Another copy comes first on Python's path, or a damaged one is in the way.",
            "Delete the runtime (menu Runtime > Disconnect and delete runtime), or on your own machine "
            "the folder `.venv`, and start again.",
        )
    ask_for_restart()


def _moved(versions: dict[str, str | None]) -> list[str]:
    """Which packages are not there in these versions."""
    return [name for name, version in versions.items() if installed_version(name) != version]


def ask_for_restart() -> None:
    """Ask for a restart if packages were replaced that this process had loaded.

    Raises:
        CourseError: some were.
    """
    if _stale:
        _offer_restart()
        raise CourseError(
            f"{', '.join(sorted(_stale))} had been loaded before it was replaced.",
            "Python keeps the old version in memory.",
            "Restart the session (menu Runtime > Restart session), then run the cells from the top.",
        )


def _loaded(package: str) -> bool:
    """Whether this process has loaded a module of a package, whatever its name: pillow's is PIL."""
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    paths = [str(file).partition(".")[0] for file in files] + [package.replace("-", "_")]
    return any(path.replace("/", ".").removesuffix(".__init__") in sys.modules for path in paths)


def _commands(requirements: Path) -> list[list[str]]:
    """uv, where it is to be had, and pip, in the order in which to try them."""
    options = ["--no-deps", "--require-hashes", "-r", str(requirements)]
    pip = [sys.executable, "-m", "pip", "install", "--progress-bar", "off"]
    pip += ["--disable-pip-version-check", *options]
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
    # uv names the package in the lines after the error.
    error = re.search(r"^\s*(error|×).*", said, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    lines = [error[0]] if error else said.strip().splitlines()[-1:]
    words = " ".join(" ".join(lines).split())
    reason = _reason(said)
    raise CourseError(
        f"The packages could not be installed: {words[:500] or 'no word from the installer'}",
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
    found = importlib.metadata.distributions(name=package)
    for place in {Path(str(one.locate_file(""))) for one in found}:
        for folder in place.glob("*.dist-info"):
            mine = locks.canonical(folder.name.partition("-")[0]) == package
            if mine and not (folder / "RECORD").exists():
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
