"""An earlier run, found in the workspace; where there is none, one trained now as notebook 05 does it."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import gc
from typing import TYPE_CHECKING

import torch

from helpers import adapting, asked, machine, models, runs, selection, training
from helpers.choice import Choice, load_choice
from helpers.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset

ANEW = (
    "Train again in notebook 05, and run this notebook from the cell with earlier.finished_run on."
)


def finished_run() -> runs.Run:
    """The run that finished last with this machine's model, else one trained now as notebook 05 does it.

    Prints which; one that was stopped counts too. A model that had to be trained is released again, so that the caller can load its own.

    Raises:
        CourseError: that run's training diverged.
    """
    run, model_name = runs.latest(), machine.default_name()
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
        print(f"{runs.missing()}: training one now, as notebook 05 does.")
    else:
        print(
            f"The run {run.folder.name} belongs to {run.record.get('model')}, and this machine uses "
            f"{model_name}: training one for it now, as notebook 05 does."
        )
    return _load_and_train(load_choice(), selection.load_selection())


def variant(run: runs.Run, conversations: "Dataset", **changes) -> runs.Run:
    """A run that differs from ``run`` in some settings, or in its data: found in the workspace, else trained now.

    The student's own run stays the latest one.

    Args:
        run: the run to compare with.
        conversations: what to train on.
        changes: fields of `Choice`, such as ``r=4``.

    Raises:
        CourseError: its training was stopped before its end, and runs are compared as a whole.
    """
    choice = runs.choice_of(run, **changes)
    found = runs.find(choice, conversations, run.record["model"])
    if found is not None:
        asked.check_saved(*found, "Then run this cell again: it trains that adapter anew.")
        print(f"Using the run {found.folder.name}.")
        return found
    print(f"Training r = {choice.r}, alpha = {choice.lora_alpha:g} on {len(conversations)} rows.")
    trained = _load_and_train(choice, conversations, run.record["model"], latest=False)
    if how_far := runs.how_far(trained.record):
        raise CourseError(
            f"The run {trained.folder.name} was {how_far}.",
            "Half a training beside a whole one would compare their lengths.",
            "Run this cell again: it goes on from there.",
        )
    return trained


def _load_and_train(
    choice: Choice, conversations: "Dataset", name: str | None = None, *, latest: bool = True
) -> runs.Run:
    """Load a model, without a name this machine's; train it, and release it again."""
    model, tokenizer = models.load(name, max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    folder = runs.folder_for(choice, conversations, model)
    trainer = training.build_trainer(model, tokenizer, conversations, choice, folder)
    run = training.train(trainer, choice, conversations, latest=latest)
    del model, trainer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return run
