"""Where this student's models, runs and choices live: the folder, and its JSON files."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from helpers import settings
from helpers.errors import CourseError

KIT = Path(__file__).resolve().parent.parent
DRIVE = Path("/content/drive/MyDrive")
# Drive, once the workspace was found there: when it goes away, no other one takes its place in silence.
_used: set[Path] = set()
# What stays on this machine's disk when the workspace is on Drive: models, and runs while they are trained.
MODELS, TRAINING = "models", "while-training"


def root() -> Path:
    """The workspace folder, made if missing.

    ``COURSE_WORKSPACE`` if set, else a folder on Google Drive if that is mounted, else ``workspace``
    beside the helpers. On Colab only Drive outlives the machine.

    Raises:
        CourseError: it is on Drive, or was until now, and Drive is not mounted.
    """
    return make(chosen())


def chosen() -> Path:
    if named := settings.path("COURSE_WORKSPACE"):
        return named
    if mounted():
        _used.add(DRIVE)
    return DRIVE / "lora-course" if DRIVE in _used else KIT / "workspace"


def mounted() -> bool:
    """Whether Google Drive is there: a disk of its own, and no folder of that name on this machine's disk.

    Such a folder is left behind by whoever writes to a Drive that is not there (any more).
    """
    try:
        return DRIVE.is_dir() and DRIVE.stat().st_dev != DRIVE.parent.parent.stat().st_dev
    except OSError:  # the connection to Drive is lost
        return False


def is_on_drive(folder: Path) -> bool:
    """Whether a folder lies on Google Drive, mounted or not; shared drives count."""
    whole = os.path.realpath(folder)  # a folder of another name may lead there
    return any(Path(p).is_relative_to(DRIVE.parent) for p in (whole, folder.absolute()))


def on_drive() -> bool:
    """Whether this workspace lies on Google Drive."""
    return is_on_drive(root())


def need_drive(folder: Path) -> None:
    """Raise CourseError if a folder lies on Google Drive, and Drive is not there."""
    if not is_on_drive(folder) or mounted():
        return
    # Google mounts on an empty folder only, and takes one with a MyDrive in it for Drive itself.
    left = f" First move the folder {DRIVE.parent} away, which is on this machine's disk: !mv {DRIVE.parent} {DRIVE.parent}-left"
    raise CourseError(
        f"{folder} is on Google Drive, and Drive is not mounted.",
        "It never was in this session, or the connection was lost. A folder made there now would be gone with this "
        "machine, and in Drive's way.",
        "Mount Drive (the folder symbol on the left, then the Drive symbol), then run this cell again."
        + (left if _is_in_the_way() else ""),
    )


def _is_in_the_way() -> bool:
    """Whether a folder on this machine's disk lies where Drive is mounted."""
    with contextlib.suppress(OSError):
        return not mounted() and any(DRIVE.parent.iterdir())
    return False


def local() -> Path:
    """The folder for what never goes to Drive: models, and runs while they are trained; made if missing.

    The workspace itself, or where that is on Drive, ``COURSE_LOCAL`` if set, else ``workspace`` beside the helpers.
    """
    folder = chosen()
    if is_on_drive(folder):
        folder = settings.path("COURSE_LOCAL") or KIT / "workspace"
    return make(folder)


def models() -> Path:
    """The folder for models: on this machine's disk, since a base model would fill a student's Drive."""
    return local() / MODELS


def make(folder: Path) -> Path:
    """A folder, made if missing; CourseError where that cannot be, or on a Drive that is not there."""
    need_drive(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_make(folder, error) from error
    return folder


def cannot_make(folder: Path, error: OSError) -> CourseError:
    """What is said where a folder of the workspace cannot be made."""
    return CourseError(
        f"The folder {folder} cannot be made: {error.strerror}.",
        "The workspace keeps models, runs and your choices; its disk is full, or you may not write there.",
        "Make room, or set COURSE_WORKSPACE to a folder you may write to. Then run this cell again.",
    )


def describe(on_drive: bool = False) -> str:
    """One sentence: where the workspace is, and whether it outlives this machine.

    Args:
        on_drive: on Colab, mount Google Drive first, so that the workspace lies there. Elsewhere this does nothing.

    Raises:
        CourseError: Drive could not be mounted.
    """
    if on_drive:
        _mount_drive()
    folder = root()
    made_before = sorted(
        p.name for p in (KIT / "workspace").glob("*") if p.name not in (MODELS, TRAINING)
    )
    if folder == DRIVE / "lora-course" and made_before:
        print(
            f"Made before Drive was mounted, and not on it: {', '.join(made_before)} in {KIT / 'workspace'}. "
            f"Copy to {folder} what you need."
        )
    if folder.is_relative_to("/content") and not is_on_drive(folder):
        return (
            f"Workspace: {folder}, gone with this machine. To keep your work, tick keep_my_work_on_google_drive "
            "in this cell and run it again; or take a trained run with you as one file: bundle.as_zip(run)."
        )
    return f"Workspace: {shown(folder)}"


def shown(folder: Path) -> str:
    """A folder as a student finds it: its place in the course; on Colab, or elsewhere, its whole path."""
    folder = folder.absolute()
    inside = folder.resolve().is_relative_to(KIT) and not folder.is_relative_to("/content")
    return f"{folder.resolve().relative_to(KIT)}/ in the course" if inside else str(folder)


def _mount_drive() -> None:
    try:
        from google.colab import drive
    except ImportError:  # this is not Colab, and the disk stays
        return
    try:
        drive.mount(str(DRIVE.parent))
    # Google's own errors when a student closes the window, in several kinds.
    except Exception as error:
        raise CourseError(
            f"Google Drive was not mounted: {error}.",
            "It asks for your permission in a window, which was closed or refused.",
            "Run this cell again and allow it; or untick keep_my_work_on_google_drive to work without.",
        ) from error
    if _is_in_the_way():
        need_drive(DRIVE)


def path(*parts: str | Path) -> Path:
    """A path inside the workspace; a whole path stays what it is."""
    named = Path(*parts)
    return named if named.is_absolute() else root() / named


def need_space(gib: float, purpose: str, folder: Path | None = None) -> None:
    """Raise CourseError unless the disk of a folder, or of the workspace, has ``gib`` GiB free."""
    folder = folder or root()
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise CourseError(
            f"{free:.1f} GiB are free where {folder} lies, and {purpose} needs {gib:.1f}.",
            "A half-written file would be worse than none.",
            "Delete what you no longer need there (old folders in runs/), then run this cell again.",
        )


def write_json(name: str | Path, content: object) -> Path:
    """Write a JSON file, named from the workspace, in one step.

    A crash or a full disk leaves the old file or the new one, never half of one.

    Raises:
        CourseError: it cannot be written, or should go to a Drive that is not there (any more).
    """
    target = path(name)
    need_drive(target)
    partial = target.with_suffix(".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise CourseError(
            f"{target} could not be written: {error.strerror}.",
            "The disk may be full, or the folder may be read-only; the earlier file is untouched.",
            "Free some space or choose another COURSE_WORKSPACE, then run this cell again.",
        ) from error
    return target


def read_json(
    name: str | Path, todo: str = "Delete it and run the notebook that makes it again."
) -> dict | list | None:
    """The content of a JSON file in the workspace, or ``None`` where there is none; ``todo`` if it is damaged."""
    target = path(name)
    if not target.exists():
        return None
    try:
        return json.loads(target.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CourseError(
            f"{target} is not readable as JSON ({error}).",
            "It was probably edited by hand or cut off.",
            todo,
        ) from error
