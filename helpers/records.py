"""What a run's folder says: its record, what the trainer noted, and what is damaged in it.

Only reads. A damaged file ends in a word for it (`damage`), or in a CourseError that names the run.
"""

import contextlib
import json
from pathlib import Path

from helpers import manifests, runs, workspace
from helpers.errors import CourseError
from helpers.trainer_files import ADAPTER, STATE, number, series, state_in

HELD = {"model": str, "choice": dict, "ids": list, "data": str, "status": str}


def folders() -> list[Path]:
    """The folder of every run, the newest last."""
    listed = []
    for folder in workspace.path("runs").glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            if folder.is_dir() and any(folder.iterdir()):
                listed.append((written(folder), folder))
    return [folder for _, folder in sorted(listed)]


def written(folder: Path) -> float:
    """When a run's record was last written, in seconds since 1970."""
    record = folder / "run.json"
    return (record if record.is_file() else folder).stat().st_mtime


def folder_of(name: str | runs.Run) -> Path:
    """The folder of a run, by its name: found in a list, so that no name leads out of ``runs/``.

    Raises:
        CourseError: there is no such run.
    """
    place = name.folder.absolute() if isinstance(name, runs.Run) else None
    wanted = place.name if place else name
    names = {folder.name: folder.absolute() for folder in folders()}
    if isinstance(wanted, str) and wanted in names and place in (None, names[wanted]):
        return names[wanted]
    raise CourseError(
        f"There is no run {wanted!r:.60}" + (f" in {place.parent}." if place else "."),
        f"The runs in this workspace: {', '.join(names) or 'none yet'}.",
        "Write one of these names, in quotes (not a path). ledger.table() lists them too.",
    )


def find(name: str | runs.Run) -> runs.Run:
    """A run, by its name or as it is.

    Raises:
        CourseError: there is no such run, or its folder is damaged.
    """
    folder = folder_of(name)
    if fault := damage(folder, hashed=True):
        raise CourseError(
            f"The run {folder.name} cannot be used: {fault}.",
            "A file of its folder was deleted, cut off or edited by hand, or an older version of the course wrote it.",
            "Put the file back, or leave this run out.",
        )
    return runs.Run(folder, runs.read(folder))


def finished() -> list[runs.Run]:
    """All finished runs that are not damaged, the newest last."""
    whole = [runs.Run(folder, runs.read(folder)) for folder in folders() if not damage(folder)]
    return [run for run in whole if run.record["status"] == "finished"]


def damage(folder: Path, *, hashed: bool = False) -> str:
    """What is damaged in a run's folder, in a few words; empty where nothing is.

    ``hashed``: read its adapter too, and compare its hash with the record's.
    """
    try:
        record = runs.read(folder)
    except CourseError:
        return "run.json cannot be read"
    if not record:
        return "run.json is gone or empty"
    wrong = [name for name, kind in HELD.items() if not isinstance(record.get(name), kind)]
    if wrong:
        return f"run.json says no {wrong[0]}"
    if mapping(record.get("best")).get("taking"):
        return "taking its best adapter was broken off"
    if record["status"] not in ("finished", "stopped"):
        return ""
    if not (folder / ADAPTER).is_file():
        return f"{ADAPTER} is gone"
    if wrong := manifests.changed(folder, record, hashed=hashed):
        return wrong
    try:
        json.loads((folder / "adapter_config.json").read_bytes())
    except (OSError, ValueError):
        return "adapter_config.json cannot be read"
    return "" if state_in(folder / STATE) else f"{STATE} cannot be read"


def furthest(folder: Path) -> dict:
    """The trainer's state of a run, or of its checkpoint that came furthest: an unfinished run may have no other."""
    checkpoints = [p for p in folder.glob("checkpoint-*") if p.name[11:].isdecimal()]
    states = [
        state_in(place / STATE)
        for place in (folder, *checkpoints, *folder.glob("kept-?/checkpoint"))
    ]
    return max(states, key=lambda state: state.get("global_step", -1))


def mapping(value: object) -> dict:
    """A dict from a file; empty for anything else."""
    return value if isinstance(value, dict) else {}


def tokens_at(record: dict, state: dict) -> dict[int, float]:
    """Tokens trained on after each step: TRL's own count, else as many in each step as the run has on average."""
    log = state.get("log_history", ())
    counted, total, before = {0: 0.0}, 0.0, 0.0
    for step, count in series(log, "num_tokens"):
        # In an older version of the course, a training that went on in another session counted from 0 again.
        total += count - before if count >= before else count
        counted[step], before = total, count
    noted = number(record.get("tokens"))
    steps = number(record.get("step")) or number(state.get("max_steps"))
    if len(counted) == 1 and noted and steps:
        counted |= {step: noted * step / steps for step, _ in series(log, "loss")}
    return counted
