"""Kernels that run a notebook by itself: local sockets instead of ports, and a workspace of its own."""

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
from helpers import workspace

BUILD = ROOT / "build"
# Threads that wait give their core away soon; else two kernels at once run many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def sockets() -> dict[str, str]:
    """Arguments of a kernel manager whose kernel needs no ports, which another kernel might take first."""
    return {"transport": "ipc", "ip": str(Path(tempfile.mkdtemp(prefix="kernel-")) / "socket")}


def prepare_model(python: str = sys.executable) -> None:
    """Make the small model in the workspace, so that its minute is not the first notebook's."""
    code = "from helpers import models; models.locate()"
    done = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])


@contextlib.contextmanager
def empty_workspace(name: str) -> Iterator[Path]:
    """A workspace that holds nothing but the models made so far; ``COURSE_WORKSPACE`` names it meanwhile.

    It lies beside the shared workspace in ``build/``, so that the models need no second copy.
    """
    shared = workspace.path("models")
    before = os.environ.get("COURSE_WORKSPACE")
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f"alone-{name}-", dir=BUILD, ignore_cleanup_errors=True
    ) as folder:
        if shared.is_dir():
            shutil.copytree(shared, Path(folder, "models"), copy_function=link)
        os.environ["COURSE_WORKSPACE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("COURSE_WORKSPACE")
            if before is not None:
                os.environ["COURSE_WORKSPACE"] = before


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the two lie on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
