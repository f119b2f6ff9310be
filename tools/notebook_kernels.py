"""Kernels that run a notebook by itself: local sockets instead of ports, and a workspace of its own."""

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from helpers import presets, workspace

BUILD = ROOT / "build"
# Threads that wait give their core away soon; else two kernels at once run many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def sockets() -> dict[str, str]:
    """Arguments of a kernel manager whose kernel needs no ports, which another kernel might take first."""
    folder = tempfile.mkdtemp(prefix="kernel-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"transport": "ipc", "ip": str(Path(folder) / "socket")}


def prepare_model(python: str = sys.executable) -> None:
    """Make the small model in the workspace, so that its minute is not the first notebook's.

    Whether one that is there is whole, each notebook checks.
    """
    if (workspace.models() / presets.EMBEDDED).is_dir():
        return
    code = "from helpers import models; models.locate()"
    done = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])


@contextlib.contextmanager
def in_workspace(folder: Path) -> Iterator[None]:
    """Meanwhile ``COURSE_WORKSPACE`` names this folder, which gets the models of the workspace named before."""
    shared, before = workspace.path("models"), os.environ.get("COURSE_WORKSPACE")
    if shared.is_dir():
        shutil.copytree(shared, folder / "models", copy_function=link, dirs_exist_ok=True)
    os.environ["COURSE_WORKSPACE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["COURSE_WORKSPACE"]
        if before is not None:
            os.environ["COURSE_WORKSPACE"] = before


@contextlib.contextmanager
def empty_workspace(name: str) -> Iterator[Path]:
    """A workspace with nothing in it but the models, removed afterwards. In ``build/``, so that links work."""
    BUILD.mkdir(exist_ok=True)
    make = tempfile.TemporaryDirectory(
        prefix=f"alone-{name}-", dir=BUILD, ignore_cleanup_errors=True
    )
    with make as folder, in_workspace(Path(folder)):
        yield Path(folder)


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the two lie on different disks."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
