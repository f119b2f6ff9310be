"""An earlier run, found in the workspace; where there is none, one trained now as notebook 05 does it."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import contextlib
import gc
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from helpers import (
    adapting,
    asked,
    comparing,
    copies,
    keeping,
    machine,
    models,
    records,
    runs,
    selection,
    training,
    workspace,
)
from helpers.choice import Choice, load_choice
from helpers.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset

ANEW = (
    "Train again in notebook 05, and run this notebook from the cell with earlier.finished_run on."
)


def finished_run() -> runs.Run:
    """The run that finished last with this machine's model, else one trained now as notebook 05 does it.

    Prints which; one that was stopped counts too, and one that Drive did not take (`_only_here`). A model that had to be
    trained is released again, so that the caller can load its own.

    Raises:
        CourseError: that run's training diverged.
    """
    run, model_name = _latest(), machine.default_name()
    if run is not None and run.record.get("model") == model_name:
        choice = runs.choice_of(run)
        asked.check_saved(run.folder, run.record, ANEW)
        if run.record.get("fault") == adapting.DIVERGED:
            raise CourseError(
                f"The run {run.folder.name} has no answers to measure.",
                adapting.DIVERGED,
                "Train again in notebook 05, with a smaller learning rate or alpha.",
            )
        print(
            f"Using the run {run.folder.name}: r = {choice.r}, alpha = {choice.lora_alpha:g}, "
            f"{len(run.record['ids'])} conversations"
            + (f", {how_far}." if (how_far := runs.how_far(run.record)) else ".")
        )
        return run
    if run is None:
        print(f"{runs.missing()}. This notebook takes one as notebook 05 makes it.")
    else:
        print(
            f"The run {run.folder.name} belongs to {run.record.get('model')}, and this machine uses "
            f"{model_name}: this notebook takes one of that, as notebook 05 makes it."
        )
    choice, rows = load_choice(), selection.load_selection()
    found = [run for run in runs.find_all(choice, rows, model_name) if not run.record.get("fault")]
    if found:
        print(
            f"{found[-1].folder.name} is a finished run with this choice and these rows: using that."
        )
        asked.check_saved(*found[-1], ANEW)
        return found[-1]
    return load_and_train(choice, rows)


def variant(run: runs.Run, conversations: "Dataset", **changes) -> runs.Run:
    """A run that differs from ``run`` in some settings, or in its data: found in the workspace, else trained now.

    The student's own run stays the latest one. One line says in what else the two differ, such as updates that float16
    skipped.

    Args:
        run: the run to compare with.
        conversations: what to train on.
        changes: fields of `Choice`, such as ``r=4``.

    Raises:
        CourseError: its training was stopped before its end, and runs are compared as a whole.
    """
    choice = runs.choice_of(run, **changes)
    model_name = run.record["model"]
    other = _find(choice, conversations, run)
    if other is not None:
        asked.check_saved(*other, "Then run this cell again: it trains that adapter anew.")
        print(f"Using the run {other.folder.name}.")
    else:
        print(
            f"Training r = {choice.r}, alpha = {choice.lora_alpha:g} on {len(conversations)} rows."
        )
        other = load_and_train(choice, conversations, model_name, latest=False)
        if how_far := runs.how_far(other.record):
            raise CourseError(
                f"The run {other.folder.name} was {how_far}.",
                "Half a training beside a whole one would compare their lengths.",
                "Run this cell again: it goes on from there.",
            )
    if more := comparing.unasked(run, other, changes):
        print(f"Not asked for, and different: {'; '.join(more)}.")
    return other


# -------------------------------------------------------------------------------- where Drive did not take them
def _latest() -> runs.Run | None:
    """`runs.latest`; or a run that ended after it and is on this machine only."""
    own = [run for run in _only_here() if not run.record.get("beside")]
    # Where Drive is gone, nobody knows what is on it.
    noted = runs.latest() if not own or workspace.mounted() else None
    if own and (noted is None or _ended(noted) < _ended(own[-1])):
        return _take_home(own[-1])
    return noted


def _find(choice: Choice, conversations: "Dataset", base: runs.Run) -> runs.Run | None:
    """The newest finished run that can stand beside ``base``, also where it is on this machine only."""
    model = base.record["model"]
    wanted = runs.asked_of(choice, conversations, model)
    for run in reversed(_only_here()):
        same = runs.is_finished(run.folder) and runs.is_same(run.record, wanted)
        if same and _is_comparable(run.record, base.record):
            return _take_home(run)
    found = reversed(runs.find_all(choice, conversations, model))
    return next((run for run in found if _is_comparable(run.record, base.record)), None)


def _is_comparable(record: dict, base: dict) -> bool:
    """Whether a run is sound, has its last adapter, and its base model was loaded and computed as the other's.

    Where this machine cannot compute as the other's did, a run that was trained here is as it would be trained now.
    """
    if record.get("fault") or records.mapping(record.get("best")).keys() & {"taken", "taking"}:
        return False
    alike = all(record.get(name) == base[name] for name in runs.BASE if name in base)
    now = {name: importlib.metadata.version(name) for name in keeping.VERSIONS}
    made_here = record.get("machine") == keeping.machine() and record.get("versions") == now
    return alike or bool(record.get("beside") and made_here)


def _only_here() -> list[runs.Run]:
    """Runs of this workspace that ended while Drive was full or gone, the newest last.

    They were trained on this machine's disk (`copies.place`), and on Drive there is less of them.
    """
    found = []
    for file in (workspace.local() / workspace.TRAINING).glob("*/*/run.json"):
        folder, home = file.parent, _home(file.parent)
        with contextlib.suppress(CourseError):  # a record is damaged: nobody knows of what run
            if copies.place(home) == folder and _is_ahead(folder, home):
                found.append(runs.Run(folder, runs.read(folder)))
    return sorted(found, key=_ended)


def _is_ahead(folder: Path, home: Path) -> bool:
    """Whether a run has ended on this machine, and the same run is not as far on Drive: another machine may go on."""
    here, there = runs.read(folder), runs.read(home) if workspace.mounted() else {}
    same = {name: here.get(name) for name in runs.IDENTITY}
    return (
        runs.is_usable(folder)
        and (not there or runs.is_same(there, same))
        and there.get("status") != "finished"
        and here.get("step", 0) > there.get("step", 0)
    )


def _home(folder: Path) -> Path:
    """Where a run that was trained on this machine's disk belongs; asks nothing of Drive, which may be gone."""
    return workspace.chosen() / "runs" / folder.name


def _ended(run: runs.Run) -> float:
    return (run.folder / "run.json").stat().st_mtime


def _take_home(run: runs.Run) -> runs.Run:
    """Try again to take a run to Drive; where that fails, one sentence says why, and what to do."""
    home = _home(run.folder)
    folder = copies.finish(run.folder, home)
    if folder == home and not run.record.get("beside"):
        workspace.write_json("latest_run.json", {"name": home.name})
    return runs.Run(folder, run.record)


def load_and_train(
    choice: Choice, conversations: "Dataset", name: str | None = None, *, latest: bool = True
) -> runs.Run:
    """Load a model, without a name this machine's; train it, and release it again."""
    model, tokenizer = models.load(name, max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    folder = runs.folder_for(choice, conversations, model, beside=not latest)
    trainer = training.build_trainer(model, tokenizer, conversations, choice, folder)
    run = training.train(trainer, choice, conversations, latest=latest)
    del model, trainer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return run
