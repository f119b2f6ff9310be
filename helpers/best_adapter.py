"""The adapter with the lowest held-out loss: kept while a run trains, and made the run's when somebody asks for it."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import json
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback

from helpers import (
    adapting,
    asked,
    checkpoints,
    claims,
    homework,
    manifests,
    records,
    runs,
    workspace,
)
from helpers.errors import CourseError
from helpers.setup import hints
from helpers.trainer_files import ADAPTER, looks, lowest

BEST, PARTIAL = "best", "partial-best"
# What notebooks 00, 05 and 06 hold of an adapter's answers: measured again after another one was taken.
OF_THE_ADAPTER = (
    *("answers*", "answered_by", "losses_*", "loss_*", "scores_*", "chrf_*", "asked_*", "logits*"),
    *("tuned_loss*", "samples", "examples", "predictions", "results"),
)


class Best(TrainerCallback):
    """Keeps the adapter with the lowest held-out loss in ``best/``; ends the training early where that was asked.

    It stands behind `watching.Looking`, whose numbers it reads. On going on, the looks come from the checkpoint, and
    those that were lost with the machine are taken again: the same adapter is the best one then.

    Of a run that was stopped, the best adapter may be one from a look that Stop added. For the early end such looks do
    not count: the run ends after the same step, however often it was stopped.
    """

    def __init__(self, folder: Path, patience: int | None):
        self.folder, self.patience, self.ended_early = folder, patience, False

    def on_step_end(self, args, state, control, model=None, **kwargs):
        taken = looks(state.log_history)
        if not taken or taken[-1][0] != state.global_step:
            return
        if lowest(taken) == taken[-1]:
            _keep(model, self.folder, *taken[-1])
        usual = looks(state.log_history, usual=True)
        if not self.patience or not (best := lowest(usual)):
            return
        waited = sum(step > best[0] for step, _ in usual)
        if waited >= self.patience and state.global_step < state.max_steps:
            self.ended_early = True
            control.should_save = control.should_training_stop = True


def _keep(model, folder: Path, step: int, loss: float) -> None:
    """Save an adapter as the best one so far, beside the earlier one, and then in its place."""
    beside = folder / PARTIAL
    _bring_best_back(folder)
    try:
        model.save_pretrained(beside / BEST)
        note = json.dumps({"step": step, "loss": loss})
        (beside / BEST / "best.json").write_text(note, encoding="utf-8")
        checkpoints.put(beside / BEST, folder / BEST)
    finally:
        _bring_best_back(folder)


def _bring_best_back(folder: Path) -> None:
    """Remove what saving a best adapter left; where it was broken off between two names, the earlier one comes back."""
    earlier = folder / PARTIAL / f"before-{BEST}"
    if earlier.is_dir() and not (folder / BEST).exists():
        earlier.rename(folder / BEST)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def forget(folder: Path) -> None:
    """Where a run begins anew, what an earlier attempt kept is of no use."""
    for name in (BEST, PARTIAL):
        shutil.rmtree(folder / name, ignore_errors=True)


def of(folder: Path) -> dict | None:
    """``{"step": …, "loss": …}`` of the adapter in a run's ``best/``; ``None`` where there is none."""
    _bring_best_back(folder)
    noted = workspace.read_json(folder.absolute() / BEST / "best.json")
    noted = noted if isinstance(noted, dict) and {"step", "loss"} <= noted.keys() else None
    whole = noted is not None and (folder / BEST / ADAPTER).is_file()
    return {name: noted[name] for name in ("step", "loss")} if whole else None


def take(run: str | runs.Run, model=None) -> runs.Run:
    """Make the adapter with the lowest held-out loss the one of a run; the last one stays in the newest checkpoint, if
    there is one (on Drive a finished run keeps none).

    Args:
        run: a finished or stopped run, or its name.
        model: the model that holds the run's adapter in this session; it gets the best one too.

    Returns:
        The run; its record says of which step its adapter is.

    Raises:
        CourseError: nobody looked at held-out rows while it trained; it is being trained, has not ended, or is another
            run by now; the best adapter is damaged; or ``model`` holds another adapter.
    """
    run = run if isinstance(run, runs.Run) else records.find(run)
    folder = run.folder.absolute()
    if not folder.is_dir():
        raise _no_best(folder)
    with claims.claim(folder):
        record, best = _record_now(run), of(folder)
        if best is None:
            raise _no_best(folder)
        if model is not None:
            asked.check_model(model, runs.Run(folder, record))
        asked.check_saved(folder / BEST, {"choice": record["choice"]})
        if not checkpoints.is_whole(folder / BEST / ADAPTER):
            raise CourseError(
                f"The best adapter of the run {folder.name} is damaged: {BEST}/{ADAPTER} is cut off or changed.",
                "The disk was full when it was copied, or somebody edited it.",
                "Go on with the adapter that the run has: it stays as it is.",
            )
        record = _put(folder, record, best)
        if model is not None:
            adapting.put_back(model, folder)
    print(f"{folder.name} now has the adapter of step {best['step']}.")
    return runs.Run(run.folder, record)


def _no_best(folder: Path) -> CourseError:
    return CourseError(
        f"The run {folder.name} has no folder {BEST}.",
        "The adapter with the lowest held-out loss is kept where held-out rows were looked at while training.",
        "Go on with the adapter that there is.",
    )


def _record_now(run: runs.Run) -> dict:
    """A run's record as it is now, but for which adapter it has; CourseError unless it is that run and has ended."""
    record = runs.read(run.folder)
    if any(record.get(n) != run.record.get(n) for n in runs.IDENTITY):
        raise CourseError(
            f"The folder {run.folder.name} holds another run than the one given.",
            "Its run.json names another model, choice or other conversations: it was trained anew since, or replaced.",
            "Take the run anew: run = runs.latest(), or the cell that made it.",
        )
    if record.get("status") not in ("finished", "stopped"):
        raise CourseError(
            f"The run {run.folder.name} has not ended.",
            "It was stopped and went on since, and its adapter and its best one may be of other steps than its record says.",
            "Run the cell with training.train again: it goes on to the end. Then take the best adapter.",
        )
    return {name: value for name, value in record.items() if name != "best"}


def _put(folder: Path, record: dict, best: dict) -> dict:
    """Put the best adapter in the place of the last one; the record that says so.

    The record says before that this begins: broken off between the two files, the run is damaged (`records.damage`)
    instead of filed with the wrong adapter, and taking the best one again mends it.
    """
    beside, before = folder / f"partial-{ADAPTER}", runs.read(folder)
    try:
        shutil.copyfile(folder / BEST / ADAPTER, beside)
        if manifests.of(beside)[1] != before.get("adapter_sha256"):
            homework.set_aside(folder)
            hints.forget(*OF_THE_ADAPTER)
        runs.write(folder, record | {"best": best | {"taking": True}})
        os.replace(beside, folder / ADAPTER)
    except OSError as error:
        if before != runs.read(folder):
            runs.write(folder, before)
        raise CourseError(
            f"The adapter could not be written to {folder}: {error.strerror}.",
            "The disk is full, or the folder may not be written to. The run is as it was.",
            "Make room (old folders in runs/ can go), then run this cell again.",
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    record = record | {"best": best | {"taken": True}}
    record |= manifests.kept(folder, runs.KEPT_FILES)
    runs.write(folder, record)
    return record
