"""Bring packages to their pinned versions, with uv or pip, and say what went wrong if it does."""

import csv
import importlib
import importlib.metadata
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from helpers.errors import CourseError
from helpers.setup import installers, locks

# Packages that were replaced while they were loaded: only a restart brings the new version.
_stale: set[str] = set()


def installed_version(package: str) -> str | None:
    """A package's version; None where it is absent or an interrupted installation left a part of it."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found.version if _whole(found, package) else None


def _whole(found: importlib.metadata.Distribution, package: str) -> bool:
    """Whether all files of a package are there, in their size.

    pip writes RECORD, the list of them, at the end, but uv before many others. What is never installed here is not
    looked at: PyTorch and its kind, and packages that Colab's image has in this very version.
    """
    record = found.read_text("RECORD")
    if record is None:
        return False
    colabs = locks.on_colab() and any(
        image["packages"].get(package) == found.version for image in locks.images().values()
    )
    if colabs or package in locks.UNTOUCHED:
        return True
    root = str(found.locate_file(""))
    for row in csv.reader(record.splitlines()):
        if len(row) != 3:
            # RECORD itself was cut off.
            return False
        path, _, size = row
        if path.endswith((".pyc", ".dist-info/RECORD")):
            continue
        try:
            there = os.stat(os.path.join(root, path)).st_size
        except OSError:
            return False
        if size and there != int(size):
            return False
    return True


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
    failure = None
    try:
        with tempfile.TemporaryDirectory() as folder:
            subset = Path(folder) / "subset.txt"
            subset.write_text("".join(chosen), encoding="utf-8")
            installers.install(subset)
    except CourseError as error:
        failure = error
    finally:
        # An installation that fails or is stopped may have replaced some.
        importlib.invalidate_caches()
        _stale.update(_moved(loaded))
    if moved := _moved(untouched):
        raise CourseError(
            f"The installation changed {', '.join(moved)}.",
            "Other packages on this machine are built for the earlier version.",
            "Delete the runtime (menu Runtime > Disconnect and delete runtime), and report this.",
        ) from failure
    if failure:
        raise failure
    pins = locks.pins()
    if still := _moved({name: pins[name] for name in packages}):
        raise CourseError(
            f"The installer is done, but this is not what the list pins: {', '.join(map(_found, still))}.",
            "Another copy comes first on Python's path, or a damaged one is in the way.",
            "Remove that copy, or the variable PYTHONPATH if it leads there; in Colab delete the runtime (menu "
            "Runtime > Disconnect and delete runtime). Then start again.",
        )
    ask_for_restart()


def _found(package: str) -> str:
    """A package with its version and its folder, or that it is absent."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is absent"
    state = found.version if _whole(found, package) else "an incomplete copy"
    return f"{package} {state} in {found.locate_file('')}"


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


def _clear_rest(package: str) -> None:
    """Remove what an interrupted installation left: without RECORD no installer replaces it."""
    found = importlib.metadata.distributions(name=package)
    for place in {Path(str(one.locate_file(""))) for one in found}:
        for folder in place.glob("*.dist-info"):
            mine = locks.canonical(folder.name.partition("-")[0]) == package
            if mine and not _whole(importlib.metadata.Distribution.at(folder), package):
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder; CourseError with the reason where that is not allowed."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        reason = installers.reason_for(str(error))
        raise CourseError(
            f"What an interrupted installation left could not be removed: {error}",
            reason.why,
            reason.todo,
        ) from error


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
