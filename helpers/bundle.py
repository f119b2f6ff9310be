"""A run as one zip: to take it with you without Google Drive, and to bring it back on another machine."""

import contextlib
import errno
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

from helpers import checkpoints, copies, manifests, records, runs, trainer_files, workspace
from helpers.errors import CourseError
from helpers.trainer_files import ADAPTER

# In the zip: the run's name, and its files with size and hash.
LIST = "lora-course-run.json"
# In runs/ while a zip is unpacked; no run has such a name.
PARTIAL = ".partial-zip"
# What a zip that is cut off, made up or encrypted ends in, beside the ValueErrors of our own.
DAMAGED = (ValueError, zipfile.BadZipFile, EOFError, KeyError, RuntimeError)


def as_zip(run: str | runs.Run) -> Path:
    """Pack a run with its adapter, record and losses, and pred.json if it is there; print where and how large.

    An unfinished run takes its newest checkpoint along, to go on elsewhere. `from_zip` brings it back. On Drive, that
    checkpoint may be in a copy: it is brought to this machine first.

    Args:
        run: a run, or its name.

    Raises:
        CourseError: there is no such run, its folder is gone or its record damaged, the disk is full, or an unfinished run has no whole checkpoint.
    """
    folder = run.folder if isinstance(run, runs.Run) else records.folder_of(run)
    target = workspace.local() / f"{folder.name}.zip"
    partial = target.with_suffix(".partial")
    try:
        sources = _sources(folder)
        files = {name: manifests.of(file) for name, file in sources.items()}
        # Stored as they are: weights hardly get smaller.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, file in sources.items():
                archive.write(file, name)
            archive.writestr(LIST, manifests.text({"name": folder.name, "files": files}))
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CourseError(
            f"The run {folder.name} could not be packed into {target}: {error.strerror or error}.",
            "Its folder is gone, or the disk is full.",
            "Put it back, or pack another run; or make room (old folders in runs/ can go). Then run this cell again.",
        ) from error
    print(
        f"{target} ({target.stat().st_size / 1e6:.1f} MB): download it from the file list on the left. On another "
        "machine, upload it there, and bundle.from_zip with its path brings the run back."
    )
    return target


def _sources(folder: Path) -> dict[str, Path]:
    """What goes into the zip, by its name there; CourseError for an unfinished run without a checkpoint."""
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(errno.ENOENT, f"there is no run.json in {folder}")
    try:
        _record(folder)
    except ValueError as error:
        raise CourseError(
            f"The run {folder.name} cannot be packed: {error}.",
            "The file was cut off or edited by hand, and on another machine the zip would be refused.",
            "Put the file back, or pack another run.",
        ) from error
    # Of an unfinished run on Drive, checkpoints and best adapter are on this machine, or in the copies.
    place = folder if runs.is_finished(folder) else copies.bring(folder)
    if fault := records.damage(place, hashed=True):
        raise CourseError(
            f"The run {folder.name} cannot be packed: {fault}.",
            "Another machine would get a run that nobody can use.",
            "Put the file back, or pack another run.",
        )
    if runs.is_finished(place):  # it may have ended while Drive was away
        return manifests.inside(place) | manifests.inside(place / "best", "best/")
    checkpoint = runs.newest_checkpoint(place)
    if checkpoint is None:
        raise CourseError(
            f"The run {folder.name} is not finished, and has no whole checkpoint.",
            "It ended before its first checkpoint was saved, or its checkpoints were deleted or damaged. Its zip could "
            "not go on anywhere.",
            "Run the cell that trains it again; then this one.",
        )
    sources = manifests.inside(folder) | manifests.inside(place / "best", "best/")
    return sources | manifests.inside(checkpoint, f"{checkpoint.name}/")


def from_zip(path: str | Path) -> runs.Run:
    """Bring back a run that `as_zip` packed, and make it the latest; one that is here already stays as it is.

    Every file is compared with its hash. That shows damage, and not who made the zip: take one from people you trust.

    Raises:
        CourseError: it is no zip of a run, or damaged, or the disk is full. Nothing has changed then.
    """
    if not isinstance(path, str | os.PathLike):
        raise CourseError(
            f"{path!r:.60} is no path of a zip.",
            "bundle.as_zip(run) prints the path of the zip that it makes.",
            'Write that path, in quotes: bundle.from_zip("r16-alpha16.zip").',
        )
    path, parent = Path(path).expanduser(), workspace.make(workspace.path("runs"))
    beside = parent / PARTIAL
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            name, files = _read_list(archive)
            workspace.need_space(manifests.gib(files), f"the run in {path.name}")
            manifests.fill(beside, files, archive.open)
        record = _record(beside)
        folder = _same(record, files)
        if folder is not None:
            step = _step(folder)
            far = (
                f", and further than in the zip: after step {step}"
                if step > _packed_step(record)
                else ""
            )
            print(f"The run {folder.name} is here already{far}.", end="")
            record = runs.read(folder)
        if folder is None:
            folder = _free(parent, name)
            checkpoints.put(beside, folder)
            print(f"The run {folder.name} is here now.", end="")
        print()
    except DAMAGED as error:
        raise CourseError(
            f"{path} is not a whole zip of a run: {str(error) or type(error).__name__}.",
            "Only what bundle.as_zip made is taken, unchanged: anything else could write where it should not.",
            "Download it again from the machine that made it, or give another path.",
        ) from error
    except OSError as error:
        raise CourseError(
            f"{path} could not be unpacked into {parent}: {error.strerror or error}.",
            "The path is wrong, the disk is full, or the folder may not be written to.",
            "Check the path, and make room; then run this cell again.",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if (folder / ADAPTER).is_file():
        workspace.write_json("latest_run.json", {"name": folder.name})
    return runs.Run(folder, record)


def _read_list(archive: zipfile.ZipFile) -> tuple[str, manifests.Files]:
    """A run's name and files, as its zip lists them; ValueError if the zip holds anything else."""
    inside = archive.infolist()
    names = sorted(info.filename for info in inside)
    if LIST not in names or any(info.compress_type != zipfile.ZIP_STORED for info in inside):
        raise ValueError("bundle.as_zip did not make it")
    if archive.getinfo(LIST).file_size > manifests.BLOCK:
        raise ValueError("its list is too long")
    listed = json.loads(archive.read(LIST))
    files = manifests.files_in(listed)
    if names != sorted([*files, LIST]):
        raise ValueError("it holds other files than it lists")
    name = listed.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", name):
        raise ValueError("its list names no run")
    return name, files


def _record(folder: Path) -> dict:
    """``run.json`` of an unpacked run; ValueError unless it can be the record of one."""
    file = folder / "run.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    held = {name: runs.HELD[name] for name in ("model", "choice", "ids")}
    if not isinstance(record, dict) or any(not isinstance(record.get(n), held[n]) for n in held):
        raise ValueError("its run.json is not the record of a run")
    return record


def _same(record: dict, files: manifests.Files) -> Path | None:
    """The folder of the same run, if it is here: with the same adapter, or what has not ended in the zip came as far."""
    wanted = {name: record.get(name) for name in runs.IDENTITY}
    for folder in records.folders():
        with contextlib.suppress(CourseError):  # that one's record is damaged
            if not runs.is_same(runs.read(folder), wanted) or records.damage(folder, hashed=True):
                continue
            adapter = folder / ADAPTER
            # One that has not ended may hold the adapter of an earlier stop: only how far it came counts.
            if record.get("status") != "finished":
                same = _step(folder) >= _packed_step(record)
            else:
                same = adapter.is_file() and manifests.of(adapter) == files.get(ADAPTER)
            if same:
                return folder
    return None


def _step(folder: Path) -> int:
    """How far the files of a run came, whatever its record says."""
    return records.furthest(folder).get("global_step", 0)


def _packed_step(record: dict) -> float:
    return trainer_files.number(record.get("step")) or 0


def _free(parent: Path, name: str) -> Path:
    """A folder in ``parent`` that is not there yet, or empty, of this name or with a number."""
    folder, number = parent / name, 1
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = parent / f"{name}-{number}"
    return folder
