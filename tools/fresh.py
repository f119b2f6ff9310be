"""All notebooks at full size from an empty workspace, in order: for the outputs and minutes in the repository.

Each notebook starts from what the one before it left. That is kept in build/fresh/, so that a run that was
broken off goes on, and one notebook can be run again by itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import compare
import course
import nbformat
import notebook_kernels
import record

PLACE = notebook_kernels.BUILD / "fresh"
WORKSPACE = PLACE / "workspace"
# Variables that would make another course of it.
FOREIGN = (
    "COURSE_SIZE",
    "COURSE_MODEL",
    "COURSE_TEST_SET",
    "COURSE_HELDOUT",
    "COURSE_T4",
    "OMP_NUM_THREADS",
)


def workspace_pattern(root: Path) -> re.Pattern:
    """How outputs name the workspace: where it lies here is not where it lies for a student."""
    return re.compile(rf"({re.escape(str(root))}/)?build/fresh/workspace\b")


IN_OUTPUTS = workspace_pattern(notebook_kernels.ROOT)


def left_by(notebook: Path) -> Path:
    """Where the workspace that a notebook left is kept."""
    return PLACE / "left" / notebook.stem


def start(notebook: Path) -> None:
    """Make the workspace that a notebook begins with: what the one before it left, but for the models.

    00 is the whole way in one notebook: it begins with nothing, and so does 01.
    """
    shutil.rmtree(WORKSPACE, ignore_errors=True)
    every = record.notebooks()
    number = every.index(notebook)
    if number < 2:
        WORKSPACE.mkdir(parents=True)
        return
    before = every[number - 1]
    if not left_by(before).is_dir():
        sys.exit(f"{notebook.stem} begins with what {before.stem} leaves: run {before.stem} first.")
    shutil.copytree(left_by(before), WORKSPACE)


def execute(notebook: Path, python: str = sys.executable) -> tuple[nbformat.NotebookNode, dict]:
    """Run a notebook in its fresh workspace, and keep what it leaves.

    Returns the executed notebook, and the minutes: ``{"minutes": …, "training": {run: minutes}}``.
    """
    start(notebook)
    target, began = PLACE / notebook.name, time.time()
    with notebook_kernels.in_workspace(WORKSPACE):
        minutes = course.run(notebook, target, python)
    shutil.rmtree(left_by(notebook), ignore_errors=True)
    shutil.copytree(WORKSPACE, left_by(notebook), ignore=shutil.ignore_patterns("models"))
    trained = {
        file.parent.name: json.loads(file.read_text(encoding="utf-8")).get("minutes")
        for file in sorted(WORKSPACE.glob("runs/*/run.json"))
        if file.stat().st_mtime >= began
    }
    executed = nbformat.read(target, as_version=4)
    for output in (o for cell in executed.cells for o in cell.get("outputs", [])):
        if "text" in output:
            output.text = IN_OUTPUTS.sub("workspace", output.text)
    return executed, {"minutes": minutes, "training": trained}


def prepare() -> None:
    """Refuse settings that would change the course, and make the small model."""
    if found := [name for name in FOREIGN if os.environ.get(name)]:
        sys.exit(f"{', '.join(found)} would change what is measured: unset it.")
    os.environ.setdefault("COURSE_WORKSPACE", str(notebook_kernels.BUILD / "test-workspace"))
    notebook_kernels.prepare_model()


def run_all(python: str = sys.executable) -> dict[str, float]:
    """Run all notebooks at full size, and note it; exits where an output is not the saved one.

    Returns the minutes of each.
    """
    prepare()
    code, minutes, wrong = record.course_hash(), {}, []
    for path in record.notebooks():
        executed, took = execute(path, python)
        minutes[path.stem] = took["minutes"]
        saved = compare.cells(nbformat.read(path, as_version=4))
        found = compare.differences(saved, compare.cells(executed))
        wrong += [one.describe(path, "saved", "full size") for one in found]
    if wrong:
        sys.exit("\n\n".join(["\nThese outputs are not the saved ones:", *wrong]))
    if code != record.course_hash():
        sys.exit("\nHelpers or notebooks changed while they ran: nothing was noted.")
    record.note_full(minutes)
    record.rewrite()
    return minutes


def renew(names: Sequence[str] = ()) -> dict[str, float]:
    """Run notebooks at full size and save their outputs; without names, those that are not current.

    Before anything is saved, each runs at test size in several settings, see tools/compare.py: an output that
    depends on the machine or the size is refused.
    """
    prepare()
    if (cores := record.machine()["cores"]) != record.CORES:
        sys.exit(
            f"The course states minutes on two cores, and here are {cores}: taskset -c 0,1 make notebooks"
        )
    paths = [p for p in record.notebooks(names) if names or not record.is_current(p)]
    if not paths:
        print("All outputs are of this code and this machine. Name a notebook to run it again.")
    compare.check(paths)
    minutes = {path.stem: renew_one(path) for path in paths}
    if all(map(record.is_current, record.notebooks())):
        record.note_full(record.notebook_minutes())
    record.rewrite()
    return minutes


def renew_one(path: Path) -> float:
    """Run one notebook, save its outputs in place, and note its minutes."""
    before = path.read_text(encoding="utf-8"), record.code_hash(path)
    executed, took = execute(path)
    if before != (path.read_text(encoding="utf-8"), record.code_hash(path)):
        sys.exit(f"\n{path.name} or a helper changed while it ran: nothing was saved.")
    if found := compare.differences(compare.kept(path), compare.cells(executed)):
        wrong = [one.describe(path, "test size", "full size") for one in found]
        sys.exit("\n\n".join(["\nThese outputs depend on the size:", *wrong]))
    nbformat.write(executed, path)
    clean(path)
    record.note(path, took["minutes"], took["training"])
    record.rewrite()
    return took["minutes"]


def clean(path: Path) -> None:
    """Take out of a notebook what should not be in the repository."""
    command = [sys.executable, notebook_kernels.ROOT / "tools" / "notebooks.py", "clean", path]
    subprocess.run(command, check=True)
