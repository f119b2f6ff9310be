"""The course's workspace on a folder in place of Google Drive, for the time of a test."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import drives
import pytest

from helpers import claims, copies, workspace


@contextlib.contextmanager
def mounted(patch: pytest.MonkeyPatch, here: Path, mib: int | None = None) -> Iterator[Path]:
    """The workspace is in a folder with spaces and other letters on Drive.

    Args:
        patch: undoes it after the test.
        here: a folder of the test's own, in place of this machine's disk.
        mib: Drive's size in MiB; without one it has the room that memory has.

    Yields:
        Drive's folder.
    """
    patch.setenv("COURSE_LOCAL", str(here / "this machine's disk, 本地"))
    with drives.of_size(patch, here / "drive", mib) if mib else drives.in_memory(patch) as drive:
        patch.setenv("COURSE_WORKSPACE", str(drive / "mein Kurs, 課程"))
        yield drive


@contextlib.contextmanager
def away() -> Iterator[None]:
    """Drive is not there, for the time of a ``with`` block."""
    drive = workspace.DRIVE
    aside = drive.with_name(f"{drive.name} away")
    drive.rename(aside)
    try:
        yield
    finally:
        aside.rename(drive)


def put_run(killed: Path, home: Path, *steps: int) -> Path:
    """Give a run the folder that a killed training left on this machine, with some of its checkpoints."""
    local = copies.place(home)
    (source,) = (killed / "runs").iterdir()
    shutil.copytree(source, local)
    (local / claims.NAME).unlink(missing_ok=True)
    for checkpoint in local.glob("checkpoint-*"):
        if int(checkpoint.name[11:]) not in steps:
            shutil.rmtree(checkpoint)
    return local
