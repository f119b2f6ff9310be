"""One run of several: train it again from what its folder holds, or delete it."""

import importlib.metadata
import itertools
import shutil
from pathlib import Path

from helpers import claims, comparing, copies, records, runs, selection, workspace
from helpers.errors import CourseError
from helpers.trainer_files import ADAPTER

# Inside runs/, so that a run gets there in one step, from the same disk; nothing looks for runs in it.
ASIDE = ".deleting"


def repeat(name: str | runs.Run) -> runs.Run:
    """Train a finished run again from what its folder holds, into a new one; says what is not as it was.

    The student's own run stays the latest one. Where this was broken off, the same call goes on.

    Raises:
        CourseError: there is no such run, it is damaged or not finished, or its conversations are not those that it was
            trained on.
    """
    run = records.find(name)
    _need_repeatable(run)
    choice, rows = runs.choice_of(run), selection.of_run(run)
    print(f"Training {run.folder.name} again, on its {len(rows)} conversations.")
    then = records.mapping(run.record.get("versions"))
    for package, version in then.items():
        if (now := _version(package)) != version:
            print(f"{package} was {version} then, and is {now} now.")
    from helpers import best_adapter, earlier  # with Unsloth, which the rest here can do without

    again = earlier.load_and_train(choice, rows, run.record["model"], latest=False)
    if again.record["status"] != "finished":  # Stop was pressed, and it was said how to go on
        return again
    if records.mapping(run.record.get("best")).get("taken"):
        again = best_adapter.take(again)
    # The versions were said above.
    alike = again._replace(record=again.record | {"versions": then})
    for line in comparing.differences(run, alike):
        print(line)
    same = len({one.folder.joinpath(ADAPTER).read_bytes() for one in (run, again)}) == 1
    print(f"{again.folder.name} has {'the same' if same else 'another'} adapter, to the last bit.")
    return again


def _need_repeatable(run: runs.Run) -> None:
    """CourseError for a run that would be trained otherwise than before."""
    record, name = run.record, run.folder.name
    if record["status"] != "finished":
        raise CourseError(
            f"The run {name} is not finished.",
            "Trained again, it would go on where it is, instead of from the first step.",
            "It diverged: another learning_rate or lora_alpha is needed, so train with another choice."
            if record.get("diverged")
            else "Finish it in notebook 05 with the same choice and conversations, then run this cell again.",
        )
    if record.get("load_in_4bit") is False:
        raise CourseError(
            f"The run {name} was trained on a base model in 16 bits.",
            "This loads the base in 4 bits, as the course does, and the adapter would be another.",
            "Load the model with models.load(load_in_4bit=False), and run the cells of notebook 05 from there.",
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def delete(name: str | runs.Run, *, even_latest: bool = False) -> None:
    """Delete a run's folder, checkpoints and adapter with it, and say how much room that made.

    The folder is moved aside first: a machine that goes away in the middle leaves no half of a run.

    Args:
        name: the folder's name in ``runs/``, or the run.
        even_latest: also if notebooks 06 and 07 look at this run; then they look at the newest one left.

    Raises:
        CourseError: there is no such run; it is being trained; it is a link; or it is the latest one.
    """
    folder = records.folder_of(name)
    _need_deletable(folder, even_latest)
    mib = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    aside = workspace.make(folder.parent / ASIDE)
    # What an earlier one could not remove has another name.
    number = next(n for n in itertools.count() if not (aside / f"{folder.name}-{n}").exists())
    try:
        folder.rename(aside / f"{folder.name}-{number}")
        if runs.latest_name() == folder.name:
            workspace.path("latest_run.json").unlink()
        shutil.rmtree(aside)
        if (place := copies.place(folder)) != folder and place.exists():
            shutil.rmtree(place)
    except OSError as error:
        left = aside if not folder.exists() else folder
        raise CourseError(
            f"{folder.name} could not be deleted: {error.strerror or error}.",
            f"Its files are in {left}. They may not be changed, or another program holds them open.",
            "Close that program, or delete this folder by hand.",
        ) from error
    print(f"Deleted the run {folder.name}: {mib:.1f} MiB are free again.")
    if workspace.is_on_drive(folder):
        print("On Drive they are in the trash, and count until you empty it.")


def _need_deletable(folder: Path, even_latest: bool) -> None:
    if folder.is_symlink():
        raise CourseError(
            f"{folder.name} is a link to another folder.",
            "Deleting it would delete what lies elsewhere, or only the link.",
            "Remove the link by hand.",
        )
    if (holder := claims.holder(folder)) is not None:
        raise CourseError(
            f"The run {folder.name} is being trained now, by process {holder.get('pid')}.",
            "Its next checkpoint would have no place to go.",
            "Stop that training first (often another notebook), then run this cell again.",
        )
    if not even_latest and runs.latest_name() == folder.name:
        raise CourseError(
            f"{folder.name} is the latest run.",
            "Notebooks 06 and 07 look at it.",
            f"If you mean it: one_run.delete({folder.name!r}, even_latest=True).",
        )
