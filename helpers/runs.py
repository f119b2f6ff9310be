"""The folders of training runs: where a run goes, how to go on with it, what it recorded.

A folder holds what the Trainer writes (checkpoints, ``trainer_state.json``), the adapter at the end,
``run.json`` with choice, versions and peak memory, and ``conversations.json``, what it was trained on.
"""

import contextlib
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers import checkpoints, claims, selection, workspace
from helpers.choice import Choice, choice_from
from helpers.errors import CourseError
from helpers.trainer_files import ADAPTER, STATE, number, series

if TYPE_CHECKING:
    from datasets import Dataset


TRAIN_AGAIN = "Train again in notebook 05."
# What makes a run that run (`asked_of`).
IDENTITY = ("model", "choice", "ids", "data")
# How the base model was loaded and computes: in which precisions, and with which template.
BASE = ("load_in_4bit", "chat_template", "number_format")
# A run that can go on: the machine went away (or trains it now), or Stop was pressed.
UNFINISHED = ("started", "stopped")
# What every finished run's record holds.
NUMBERS = (
    *("minutes", "tokens", "per_device_train_batch_size", "learning_rate"),
    *("warmup_steps", "trainable_parameters"),
)
# Of a finished run, what answering needs beside adapter_config.json: the adapter, and the tokenizer in its files.
KEPT_FILES = (
    *(ADAPTER, "chat_template.jinja", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
)
HELD = {"model": str, "choice": dict, "ids": list} | dict.fromkeys(NUMBERS, int | float)


class Run(NamedTuple):
    """One training run: its folder, and ``run.json`` in it as a dict."""

    folder: Path
    record: dict


def folder_for(
    choice: Choice, conversations: "Dataset", model=None, *, beside: bool = False
) -> Path:
    """The folder for a run: an interrupted run's with the same choice and data, else a new one.

    Args:
        choice, conversations: what is trained, and on what.
        model: the loaded model that is trained; without one, this machine's.
        beside: for a run beside the student's own: an interrupted one of their own stays as it is.

    Raises:
        CourseError: such a run is being trained now, by another notebook.
    """
    from helpers import models  # imports Unsloth, which a slider can do without

    selection.check_rows(conversations)
    wanted = asked_of(choice, conversations, models.name_of(model))
    finished, taken, waiting = None, _numbered(name_of(choice)), []
    for folder in taken.values():
        record = read(folder)
        if not is_same(record, wanted):
            continue
        if record.get("status") not in UNFINISHED:
            finished = finished or folder.name
        elif not beside or record.get("beside"):
            waiting.append((not record.get("beside"), number(record.get("step")) or 0, folder))
    if waiting:
        # Of several the student's own; of those, as two zips of one run bring them, the one that came furthest.
        *_, folder = max(waiting, key=lambda one: one[:2])
        claims.refuse(folder)
        print(f"An interrupted run with these settings is in {folder.name}.")
        return folder
    if not beside:
        _say_interrupted(wanted)
    free = next(n for n in itertools.count(1) if n not in taken)
    folder = workspace.path("runs", name_of(choice) + (f"-{free}" if free > 1 else ""))
    workspace.make(folder)
    if finished:
        print(f"{finished} is a finished run with these settings: {folder.name} is new.")
    return folder


def _say_interrupted(wanted: dict) -> None:
    """How to go on with the newest interrupted run, where another one is wanted: its choice may be forgotten."""
    for file in reversed(_records()):
        with contextlib.suppress(CourseError):  # damaged
            record = read(file.parent)
            own = record.get("model") == wanted["model"] and not record.get("beside")
            # Stages go on with stages.train, and a run of 0 steps with nothing.
            one = own and record.get("step") and not record.get("stages")
            if record.get("status") != "started" or not one or claims.holder(file.parent):
                continue
            print(
                f"{file.parent.name} was interrupted after step {record.get('step', 0)}, and has other settings or rows. To go "
                f"on with it instead, in notebook 05: from helpers import records; run = records.find({file.parent.name!r}); choice = "
                "runs.choice_of(run); conversations = selection.of_run(run). Then run the cells again, from the one that adds "
                "the adapter on."
            )
            return


def _numbered(name: str) -> dict[int, Path]:
    """The folders of this name that hold something, by the number at its end; the first one has none."""
    found = {}
    for folder in workspace.path("runs").glob(f"{name}*"):
        numbered = re.fullmatch(r"(?:-([1-9][0-9]*))?", folder.name.removeprefix(name))
        if numbered and (not folder.is_dir() or any(folder.iterdir())):
            found[int(numbered[1] or 1)] = folder
    return dict(sorted(found.items()))


def name_of(choice: Choice) -> str:
    """How the folder of a run with this choice is called; further ones get a number."""
    return f"r{choice.r}-alpha{choice.lora_alpha:g}"


def asked_of(choice: Choice, conversations: "Dataset", model: str) -> dict:
    """The part of ``run.json`` that says what a run is: two runs with the same are the same.

    ``data`` is of the rows themselves, since an edited row keeps its id.
    """
    return {
        "model": model,
        "choice": choice.to_dict(),
        "ids": list(conversations["id"]),
        "data": selection.fingerprint(conversations),
    }


def is_same(record: dict, wanted: dict) -> bool:
    """Whether ``run.json`` is of the run that is wanted (`asked_of`).

    A record of an older version of the course does not say which rows stood behind the ids: it is of no run. What its
    choice does not name had the default.
    """
    return all(_with_defaults(name, record.get(name)) == value for name, value in wanted.items())


def _with_defaults(name: str, value: object) -> object:
    return Choice().to_dict() | value if name == "choice" and isinstance(value, dict) else value


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run, with its adapter."""
    return _has_adapter(folder) and read(folder).get("status") == "finished"


def is_usable(folder: Path) -> bool:
    """Whether a folder holds a run that is finished, or was stopped, with its adapter."""
    return _has_adapter(folder) and read(folder).get("status") in ("finished", "stopped")


def _has_adapter(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def how_far(record: dict) -> str:
    """``stopped after step 12 of 26``; empty for a run that was not stopped."""
    if record.get("status") != "stopped":
        return ""
    return f"stopped after step {record.get('step', '?')} of {record.get('steps', '?')}"


def latest() -> Run | None:
    """The run that finished or was stopped last in this workspace, or ``None``, which may have a reason: `missing`.

    Raises:
        CourseError: its adapter is there, and its ``run.json`` does not say what was trained.
    """
    name = latest_name()
    folder = workspace.path("runs", name) if name else None
    if folder is None or not _has_adapter(folder):
        return None
    record = read(folder)
    if record.get("status") == "started":  # it was stopped, and goes on since
        return None
    lost = [name for name, kind in HELD.items() if not isinstance(record.get(name), kind)]
    if lost:
        raise CourseError(
            f"{folder / 'run.json'} is "
            + (f"without {', '.join(lost)}." if record else "not there, or holds nothing."),
            "It says what the adapter beside it was trained with. It was deleted or edited by hand, or another version "
            "of the course wrote it.",
            "Put the file back, or move the folder away and train again in notebook 05.",
        )
    return Run(folder, record)


def missing() -> str:
    """Why there is no `latest` run, in one sentence."""
    name = latest_name()
    if not name:
        return "No finished run in this workspace"
    folder = workspace.path("runs", name)
    if _has_adapter(folder):
        if claims.holder(folder) is not None:
            return f"The run that was stopped last, {name}, goes on since, and has not ended"
        return f"The run {name} went on and was interrupted: notebook 05 finishes it, with the same choice"
    what = f"has no {ADAPTER} any more" if folder.is_dir() else "is gone"
    return f"The run that finished last, {name}, {what} (it was in {folder.parent})"


def latest_name() -> str | None:
    """As noted; where the note is gone or damaged, the newest such run that was not trained beside another."""
    noted = None
    with contextlib.suppress(CourseError):
        noted = workspace.read_json("latest_run.json")
    if isinstance(noted, dict) and isinstance(noted.get("name"), str):
        return noted["name"]
    records = [file for file in _records() if is_usable(file.parent)]
    own = [file.parent.name for file in records if not read(file.parent).get("beside")]
    return own[-1] if own else None


def _records() -> list[Path]:
    """``run.json`` of every run, the newest last."""
    found = workspace.path("runs").glob("[!.]*/run.json")
    return sorted(found, key=lambda file: file.stat().st_mtime)


def choice_of(run: Run, **changes) -> Choice:
    """What a run was trained with, with some settings changed.

    Raises:
        CourseError: ``run.json`` comes from another version of the course, or was edited.
    """
    file = run.folder / "run.json"
    return replace(choice_from(run.record.get("choice"), file, TRAIN_AGAIN), **changes)


def find_all(choice: Choice, conversations: "Dataset", model: str) -> list[Run]:
    """All finished runs of this model with this choice and these conversations, the newest last."""
    wanted = asked_of(choice, conversations, model)
    whole = [Run(file.parent, read(file.parent)) for file in _records() if is_finished(file.parent)]
    return [run for run in whole if is_same(run.record, wanted)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or ``None``; others are set aside, and it is said."""
    sizes = read(folder).get("checkpoints")
    return checkpoints.newest(folder, sizes if isinstance(sizes, dict) else None)


def history(folder: Path) -> list[dict]:
    """The trainer's log of a finished run.

    Raises:
        CourseError: the file is not there (any more), or is damaged.
    """
    try:
        text = (folder / STATE).read_text(encoding="utf-8")
        return [dict(entry) for entry in json.loads(text)["log_history"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"The losses of the run {folder.name} cannot be read: {error}.",
            f"They are in {STATE} in {folder}. The run was deleted or moved, or is not finished."
            if not (folder / STATE).exists()
            else "The file was cut off or edited by hand.",
            "Train again: from the cell on that adds the adapter.",
        ) from error


def losses(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    """``(step, training loss)`` of a finished run; or, by its name, another number that the trainer noted.

    Raises:
        CourseError: there is none, as where SFTConfig's logging_steps is larger than the number of steps.
    """
    found = series(history(folder), name)
    if not found:
        raise CourseError(
            f"The run {folder.name} noted no {name}.",
            "SFTConfig's logging_steps was larger than the number of its steps, or logging was off.",
            "Set logging_steps=1, and train again.",
        )
    return found


def read(folder: Path) -> dict:
    """``run.json`` of a run folder; empty where there is none."""
    todo = (
        "Without it nobody knows what its adapter and checkpoints were trained with. Move the whole folder away, and "
        "train again: from the first step."
    )
    record = workspace.read_json(folder.absolute() / "run.json", todo)
    return record if isinstance(record, dict) else {}


def write(folder: Path, record: dict) -> None:
    """Write ``run.json``, whole or not at all."""
    workspace.write_json(folder.absolute() / "run.json", record)


def tokens_per_minute(model: str) -> float | None:
    """How fast the newest run of this model trains or trained; counts every token of every row.

    A run that has just started has its first rate with its first checkpoint.
    """
    for file in reversed(_records()):
        record = read(file.parent)
        if record.get("model") == model and record.get("minutes"):
            return record.get("tokens", 0) / record["minutes"] or None
    return None
