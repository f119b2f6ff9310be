"""One run is trained by one process at a time: a small file in its folder says by which, and that it is alive."""

import contextlib
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from helpers import workspace
from helpers.errors import CourseError

NAME = "training.lock"
# Another machine cannot look for the process, so the file's time is renewed: every so many seconds, and it counts
# as left behind after so many. A folder on Google Drive can reach another machine some minutes late.
BEAT_SECONDS = 30
STALE_SECONDS = 600


def holder(folder: Path) -> dict | None:
    """What the process that trains in this folder now noted about itself; ``None`` if none does, or this one."""
    try:
        noted = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return noted if _is_alive(noted) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def refuse(folder: Path) -> None:
    """CourseError if another process is training in this folder now."""
    other = holder(folder)
    if other is None:
        return
    here = other["machine"] == _this_process()["machine"]
    silent = time.time() - other["beat"]
    raise CourseError(
        f"The run {folder.name} is being trained already, by process {other['pid']} on "
        f"{'this machine' if here else other['host']}, since {other['since']}.",
        "Two trainings in one folder would overwrite each other's checkpoints, and "
        + ("that process is alive." if here else f"that one wrote {silent:.0f} seconds ago."),
        "Let it finish, or stop it there (often another notebook: shut down its kernel), then run this cell again. "
        + (
            "Or choose other settings."
            if here
            else f"If that machine is gone, wait {(STALE_SECONDS - silent) / 60 + 1:.0f} minutes first."
        ),
    )


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[threading.Event]:
    """Keep other processes from training in this folder, for the time of a ``with`` block.

    What a dead process left behind is taken over.

    Yields:
        an event that is set if another process took the folder over (this machine was asleep, for instance):
        nothing may be written there any more.

    Raises:
        CourseError: another process trains there.
    """
    refuse(folder)
    mine = _this_process() | {"since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
    file, ended, lost = folder / NAME, threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            if holder(folder) is not None:
                return lost.set()
            with contextlib.suppress(
                CourseError
            ):  # the disk is full, for instance: the next time, then
                workspace.write_json(file, mine | {"beat": time.time()})

    thread = threading.Thread(target=beat, daemon=True)
    try:
        workspace.write_json(file, mine | {"beat": time.time()})
        # Two that begin in the same moment: the last one to write has the folder.
        time.sleep(0.1)
        refuse(folder)
        thread.start()
        yield lost
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        if holder(folder) is None:
            with contextlib.suppress(OSError):
                file.unlink()


def _this_process() -> dict:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


@functools.cache
def _machine() -> str:
    """Name of a machine from one start to the next; two containers on it count as two.

    Asked once: the host's name may change with the network it is in.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> float | None:
    """When a process of this machine began (seconds since 1970), or ``None`` if there is none."""
    import psutil  # comes with accelerate

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _is_alive(noted: dict) -> bool:
    """Whether a note was made by another process that lives."""
    me = _this_process()
    if noted["machine"] != me["machine"]:
        return time.time() - noted["beat"] < STALE_SECONDS
    # The number of a dead process is given to new ones: the time it began tells them apart.
    began = _started(noted["pid"])
    return noted["pid"] != me["pid"] and began is not None and abs(began - noted["started"]) < 2
