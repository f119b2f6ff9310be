"""Where this student's models, runs and choices live: the folder, and its JSON files."""

import contextlib
import json
import shutil
from pathlib import Path

from helpers import settings
from helpers.errors import CourseError

KIT = Path(__file__).resolve().parent.parent
DRIVE = Path("/content/drive/MyDrive")


def root() -> Path:
    """The workspace folder, made if missing.

    ``COURSE_WORKSPACE`` if set, else a folder on Google Drive if that is mounted, else ``workspace``
    beside the helpers. On Colab only Drive outlives the machine.
    """
    if named := settings.path("COURSE_WORKSPACE"):
        folder = named
        if DRIVE.parent in folder.parents and not DRIVE.is_dir():
            raise CourseError(
                f"COURSE_WORKSPACE = {folder} is on Google Drive, and Drive is not mounted.",
                "A folder made there now would be gone with this machine, and in Drive's way.",
                "Mount Drive (the folder symbol on the left, then the Drive symbol), then run this cell again.",
            )
    elif DRIVE.is_dir():
        folder = DRIVE / "lora-course"
    else:
        folder = KIT / "workspace"
    return make(folder)


def make(folder: Path) -> Path:
    """A folder, made if missing."""
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
    made_before = sorted(p.name for p in (KIT / "workspace").glob("*") if p.name != "models")
    if folder == DRIVE / "lora-course" and made_before:
        print(
            f"Made before Drive was mounted, and not on it: {', '.join(made_before)} in {KIT / 'workspace'}. "
            f"Copy to {folder} what you need."
        )
    if folder.is_relative_to("/content") and DRIVE not in folder.parents:
        return (
            f"Workspace: {folder}, gone with this machine. To keep your work, tick keep_my_work_on_google_drive "
            "in this cell and run it again."
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


def path(*parts: str | Path) -> Path:
    """A path inside the workspace."""
    return root().joinpath(*parts)


def need_space(gib: float, purpose: str) -> None:
    """Raise CourseError unless the workspace's disk has ``gib`` GiB free."""
    free = shutil.disk_usage(root()).free / 2**30
    if free < gib:
        raise CourseError(
            f"{free:.1f} GiB are free where {root()} lies, and {purpose} needs {gib:.1f}.",
            "A half-written file would be worse than none.",
            "Delete what you no longer need there (old folders in runs/), then run this cell again.",
        )


def write_json(name: str | Path, content: object) -> Path:
    """Write a JSON file, named from the workspace, in one step.

    A crash or a full disk leaves the old file or the new one, never half of one.
    """
    target = path(name)
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
