"""A folder in place of Google Drive: a disk of its own, which Linux has in memory; and one of any size, full or gone.

Whoever may mount can also have Drive end as it does in Colab: unmounted, or with its connection lost.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import workspace

OTHER_DISK = Path("/dev/shm")


@contextlib.contextmanager
def in_memory(patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Drive is a folder on another disk than the kit, for the time of a ``with`` block."""
    drive = OTHER_DISK / f"MyDrive {uuid.uuid4().hex[:8]} é"
    drive.mkdir()
    patch.setattr(workspace, "DRIVE", drive)
    try:
        yield drive
    finally:
        shutil.rmtree(drive, ignore_errors=True)


@contextlib.contextmanager
def of_size(patch: pytest.MonkeyPatch, where: Path, mib: int) -> Iterator[Path]:
    """Drive is a disk of so many MiB, mounted at ``where``."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(where)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    drive = where / "MyDrive"
    drive.mkdir()
    patch.setattr(workspace, "DRIVE", drive)
    try:
        yield drive
    finally:
        unmount(where)


def unmount(where: Path) -> None:
    """Take a disk away, whoever uses it; the empty folder stays."""
    subprocess.run(["umount", "-l", str(where)], capture_output=True, check=False)


def lose_connection(where: Path) -> None:
    """Mount what a FUSE program that has died leaves: every call ends in ENOTCONN."""
    libc, handle = ctypes.CDLL(None, use_errno=True), os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={handle},rootmode=40000,user_id=0,group_id=0".encode()
    failed = libc.mount(b"drive", os.fsencode(where), b"fuse", 0, options)
    os.close(handle)
    if failed:
        pytest.skip("nothing can be mounted here")
