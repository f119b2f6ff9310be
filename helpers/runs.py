"""The folders of training runs: where a run goes, how to go on with it, what it recorded.

A folder holds what the Trainer writes (checkpoints, ``trainer_state.json``), the adapter at the end, and
``run.json``: choice, data, versions and peak memory.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers import workspace
from helpers.errors import CourseError
from helpers.presets import Choice

if TYPE_CHECKING:
    from datasets import Dataset


class Run(NamedTuple):
    """One training run: its folder, and ``run.json`` in it as a dict."""

    folder: Path
    record: dict


def folder_for(choice: Choice, conversations: "Dataset") -> Path:
    """The folder for a run: an interrupted run's with the same choice and data, else a new one."""
    from helpers import models  # imports Unsloth, which a slider can do without

    runs = workspace.path("runs")
    name = f"r{choice.r}-alpha{choice.lora_alpha:g}"
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or not any(folder.iterdir()):
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        record = read(folder)
        same = record.get("choice") == choice.to_dict() and record.get("ids") == list(
            conversations["id"]
        )
        if (
            same
            and record.get("status") == "started"
            and record.get("model") == models.default_name()
        ):
            print(f"An interrupted run with these settings is in {folder.name}.")
            return folder
        number += 1


def latest() -> Run | None:
    """The run that finished last in this workspace, or ``None``."""
    name = (workspace.read_json("latest_run.json") or {}).get("name")
    folder = workspace.path("runs", name) if name else None
    if folder is None or not (folder / "adapter_model.safetensors").exists():
        return None
    return Run(folder, read(folder))


def choice_of(run: Run, **changes) -> Choice:
    """What a run was trained with, with some settings changed.

    Raises:
        CourseError: ``run.json`` comes from another version of the course, or was edited.
    """
    try:
        return replace(Choice(**run.record["choice"]), **changes)
    except (KeyError, TypeError) as error:
        raise CourseError(
            f"run.json in {run.folder.name} does not hold this course's settings: {error}.",
            "Another version of the course wrote it, or it was edited by hand.",
            "Train again in notebook 05.",
        ) from error


def find(choice: Choice, ids: list[str], model: str) -> Run | None:
    """A finished run of this model with this choice and these conversations, or ``None``."""
    wanted = {"status": "finished", "choice": choice.to_dict(), "ids": ids, "model": model}
    for folder in sorted(workspace.path("runs").glob("*")):
        record = read(folder)
        whole = (folder / "adapter_model.safetensors").is_file()
        if whole and all(record.get(name) == value for name, value in wanted.items()):
            return Run(folder, record)
    return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; half-written ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while found:
        try:
            json.loads((found[-1] / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(found.pop())
        else:
            return found[-1]
    return None


def losses(folder: Path) -> list[tuple[int, float]]:
    """``(step, training loss)`` of a finished run, from its ``trainer_state.json``."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return [
        (entry["step"], float(entry["loss"])) for entry in state["log_history"] if "loss" in entry
    ]


def read(folder: Path) -> dict:
    """``run.json`` of a run folder; empty where there is none."""
    return workspace.read_json(str(folder / "run.json")) or {}


def write(folder: Path, record: dict) -> None:
    """Write ``run.json``, whole or not at all."""
    workspace.write_json(f"runs/{folder.name}/run.json", record)


def tokens_per_minute(model: str) -> float | None:
    """How fast the newest run of this model trains or trained; counts every token of every row.

    A run that has just started has its first rate with its first checkpoint.
    """
    records = sorted(
        workspace.path("runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime
    )
    for file in reversed(records):
        record = read(file.parent)
        if record.get("model") == model and record.get("minutes"):
            return record.get("tokens", 0) / record["minutes"] or None
    return None
