"""Copies of a run on Google Drive, which outlive this machine: made while it trains and at the end, and brought back.

Where the workspace is on Drive, a run is trained in a folder on this machine's disk (`place`). Its newest checkpoint
goes to Drive now and then (`copier`), in turn into ``kept-a`` and ``kept-b``, so that one of the two is always
whole. Files there are written over and not deleted: Drive's trash would keep what is deleted, and count it.

A hash is compared with what the mounted folder gives back; Google's own upload from there goes on for a while.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from helpers import checkpoints, claims, manifests, runs, workspace
from helpers.errors import CourseError

SLOTS = ("kept-a", "kept-b")
# In each of these: what is in it, written last.
LIST = "copy.json"
# What says which run it is.
ABOUT = ("conversations.json", "run.json")
# Where a copy is put together on this machine, before it gets its name.
PARTIAL = ".partial-copy"


def place(home: Path) -> Path:
    """The folder that a run is written to while it trains: its own, or for one on Drive, one on this machine's disk.

    Args:
        home: the run's folder, as `runs.folder_for` gives it.
    """
    if not workspace.is_on_drive(home):
        return home
    # Two workspaces may each have a run of this name.
    which = hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:8]
    return workspace.local() / workspace.TRAINING / which / home.name


# ---------------------------------------------------------------------------------------- to Drive
def announce(local: Path, home: Path) -> None:
    """Let the folder on Drive say which run it is, and that it is not finished.

    Raises:
        CourseError: Drive is full or gone.
    """
    with _writing(home):
        for name in ABOUT:
            workspace.write_json(home / name, workspace.read_json(local / name))


def copy(local: Path, home: Path) -> int | None:
    """Copy a run's newest checkpoint to Drive, into the older one of the two folders there; return its step.

    What `announce` writes is there too then: without it, `runs.folder_for` does not find the run again.

    Args:
        local: where the run is trained (`place`).
        home: its folder on Drive.

    Returns:
        ``None`` where there is no checkpoint yet.

    Raises:
        CourseError: Drive is full or gone, another machine trains the run, or what came back is not what was written.
            The copy before is whole.
    """
    checkpoint = runs.newest_checkpoint(local)
    if checkpoint is None:
        return None
    step = _step(checkpoint)
    with _writing(home):
        sources = {name: local / name for name in ABOUT} | manifests.inside(local / "best", "best/")
        sources |= manifests.inside(checkpoint, "checkpoint/")
        known = {slot: _listed(home / slot) for slot in SLOTS}
        slot = min(SLOTS, key=lambda slot: known[slot]["count"])
        count = max(one["count"] for one in known.values()) + 1
        _need_room(home / slot, sources)
        _announce_again(local, home)
        (home / slot).mkdir(exist_ok=True)
        _over(home / slot / LIST, b"{}")
        files = _put(home / slot, sources, known[slot]["files"])
        listed = {"count": count, "step": step, "files": files}
        _over(home / slot / LIST, manifests.text(listed))
    return step


def _announce_again(local: Path, home: Path) -> None:
    """`announce`, if the folder on Drive does not say yet which run it is: Drive was away when the training began."""
    here, there = runs.read(local), {}
    with contextlib.suppress(CourseError):  # it is damaged: written anew
        there = runs.read(home)
    if not runs.is_same(there, _which(here)):
        there = {}
    if there.get("status") in ("started", "finished") and (home / ABOUT[0]).is_file():
        return
    workspace.write_json(home / ABOUT[0], workspace.read_json(local / ABOUT[0]))
    # Not the step of now: a run that ends here with this step would not count as ahead of the folder on Drive.
    runs.write(home, here | {"status": "started", "step": there.get("step", 0)})


def _which(record: dict) -> dict:
    """The part of a run's record that says which run it is."""
    return {name: record.get(name) for name in runs.IDENTITY}


def finish(local: Path, home: Path) -> Path:
    """Take a run that is finished or stopped to its folder on Drive; return the folder where it is now.

    Its adapter, tokenizer, losses and record go there, of a stopped one the newest checkpoint too. A finished one then
    needs no checkpoint on Drive and no folder on this machine. Where Drive is full or gone, the run stays on this
    machine, and one sentence says so; `earlier.finished_run` finds it there.
    """
    if local == home:
        return home
    finished = runs.is_finished(local)
    try:
        if not finished:
            copy(local, home)
        with _writing(home):
            sources = manifests.inside(local) | manifests.inside(local / "best", "best/")
            sources.pop("run.json")  # it comes last: only then the run is there
            _need_room(home, sources)
            _put(home, sources)
            runs.write(home, runs.read(local))
            if finished:
                _empty(home)
    except CourseError as error:
        print(
            f"The run {home.name} stays on this machine only, in {local}: {error.what} When Drive is there and has "
            "room, run this cell again; or take the run with you as one file: from helpers import bundle; "
            "bundle.as_zip(run)."
        )
        return local
    if finished:
        shutil.rmtree(local, ignore_errors=True)
    return home


@contextlib.contextmanager
def _writing(home: Path) -> Iterator[None]:
    """CourseError for whatever keeps a run from being written to Drive, for the time of a ``with`` block."""
    try:
        claims.refuse(home)
        workspace.make(home)
        yield
    except OSError as error:
        gone = error.errno == errno.ENOTCONN or not workspace.mounted()
        raise CourseError(
            f"{home} cannot be written to: {'Drive is gone' if gone else error.strerror or error}.",
            "Drive is full, was unmounted, or its connection was lost.",
            "Make room on Drive and empty its trash, which counts too; or mount it again. Then run this cell again.",
        ) from error


def _need_room(folder: Path, sources: dict[str, Path]) -> None:
    """CourseError unless the files fit, in place of those of the same names that are there."""
    free, needed = shutil.disk_usage(folder.parent).free, manifests.BLOCK
    for name, file in sources.items():
        there = folder / name
        needed += max(0, file.stat().st_size - (there.stat().st_size if there.exists() else 0))
    if needed > free:
        raise CourseError(
            f"Drive has {free / 1e6:,.0f} MB free, and the copy needs {needed / 1e6:,.0f} MB more.",
            "A half-written copy would be worse than none.",
            "Make room on Drive, and empty its trash, which counts too.",
        )


def _put(
    folder: Path, sources: dict[str, Path], known: manifests.Files | None = None
) -> manifests.Files:
    """Write files over those in a folder, but for those that are there by its list; check all, and list them."""
    files = {name: manifests.of(file) for name, file in sources.items()}
    for name, file in sources.items():
        if files[name] != (known or {}).get(name):
            # Not the folders above: on a Drive that is gone they would be made on this machine's disk.
            (folder / name).parent.mkdir(exist_ok=True)
            with file.open("rb") as new:
                _over(folder / name, new)
    for name, entry in files.items():
        if manifests.of(folder / name) != entry:
            raise CourseError(
                f"{name} came back from Drive otherwise than it was written.",
                "This copy is of no use; the one before is kept.",
                "Run this cell again.",
            )
    return files


def _over(target: Path, new: bytes | BinaryIO) -> None:
    """Write over a file in its place, and wait until it is on the disk."""
    with target.open("r+b" if target.exists() else "wb") as old:
        if isinstance(new, bytes):
            old.write(new)
        else:
            shutil.copyfileobj(new, old, manifests.BLOCK)
        old.truncate()
        old.flush()
        try:
            os.fsync(old.fileno())
            # So that a check reads what the disk has, and not what the machine remembers.
            os.posix_fadvise(old.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
                raise


def _empty(home: Path) -> None:
    """Remove the copies of checkpoints; emptied first, since what is in the trash counts."""
    for slot in SLOTS:
        for file in (home / slot).rglob("*"):
            if file.is_file():
                _over(file, b"")
        shutil.rmtree(home / slot, ignore_errors=True)


# -------------------------------------------------------------------------------------- from Drive
def bring(home: Path, wanted: dict | None = None) -> Path:
    """The folder where a run is trained now, with what there is of it: on a new machine, the newest whole copy.

    Args:
        home: the run's folder, as `runs.folder_for` gives it.
        wanted: the record of the run that is to be trained: what is left on this machine of another one is set aside.

    Returns:
        `place`; or the run's own folder, where it is finished there.

    Raises:
        CourseError: Drive is not there, or this machine's disk is full.
    """
    local = place(home)
    if local == home:
        return home
    workspace.make(home)
    try:
        _set_other_aside(local, runs.read(home) or wanted or {})
        if runs.is_finished(home):
            shutil.rmtree(local, ignore_errors=True)
            return home
        if runs.is_finished(local):  # Drive was away when it ended
            return finish(local, home)
        workspace.make(local)
        for name in ABOUT:
            if (home / name).is_file() and not (local / name).exists():
                shutil.copyfile(home / name, local / name)
        _bring_newer(local, home)
    except OSError as error:
        raise CourseError(
            f"The run {home.name} could not be brought from Drive to {local}: {error.strerror or error}.",
            "This machine's disk is full, or Drive is gone.",
            "Make room, or mount Drive again; then run this cell again.",
        ) from error
    return local


def _set_other_aside(local: Path, there: dict) -> None:
    """Give the folder of another run with this name, which was left on this machine, another name."""
    here = runs.read(local)
    if not here or not there or runs.is_same(here, _which(there)):
        return
    number = 1
    while (aside := local.with_name(f"another-{number}-{local.name}")).exists():
        number += 1
    local.rename(aside)
    print(f"Another run {local.name} was left on this machine: it is in {aside} now.")


def _bring_newer(local: Path, home: Path) -> None:
    """Bring the newest whole copy, if it is ahead of what is on this machine; say which, and what is passed over."""
    here = runs.newest_checkpoint(local)
    known = {slot: _listed(home / slot) for slot in SLOTS}
    for slot in sorted(SLOTS, key=lambda slot: -known[slot]["count"]):
        step = known[slot]["step"]
        if step <= (_step(here) if here else 0):
            continue
        try:
            _restore(home / slot, local, step, known[slot]["files"])
        except (ValueError, FileNotFoundError) as error:
            print(f"The copy of step {step} on Drive is passed over: {error}.")
            continue
        print(f"The copy of step {step} of the run {home.name} was brought from Drive.")
        return
    # `bundle.from_zip` put it there, or an older version of the course trained on Drive itself.
    if not here and (newest := runs.newest_checkpoint(home)):
        for folder in (home / "best", newest):
            if folder.is_dir():
                shutil.copytree(folder, local / PARTIAL / folder.name, dirs_exist_ok=True)
                checkpoints.put(local / PARTIAL / folder.name, local / folder.name)


def _restore(slot: Path, local: Path, step: int, files: manifests.Files) -> None:
    beside = local / PARTIAL
    shutil.rmtree(beside, ignore_errors=True)
    workspace.need_space(manifests.gib(files), "the run from Drive", local)
    try:
        manifests.fill(beside, files, lambda name: (slot / name).open("rb"))
        for name in ABOUT:
            os.replace(beside / name, local / name)
        if (beside / "best").exists():
            checkpoints.put(beside / "best", local / "best")
        checkpoints.put(beside / "checkpoint", local / f"checkpoint-{step}")
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _listed(slot: Path) -> dict:
    """What a copy lists: the how manieth it is, of which step, and its files; 0, 0 and none where it is not whole."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        listed = json.loads((slot / LIST).read_text(encoding="utf-8"))
        files, numbers = manifests.files_in(listed), {n: listed.get(n) for n in ("count", "step")}
        if all(type(number) is int and number > 0 for number in numbers.values()):
            return numbers | {"files": files}
    return {"count": 0, "step": 0, "files": {}}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
