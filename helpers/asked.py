"""Is what a session holds what it is asked for? A trainer, a folder and an adapter beside a choice and its rows."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import adapters, data, models, presets, runs
from helpers.errors import CourseError
from helpers.presets import Choice
from helpers.progress import FROM_THE_ADAPTER_ON, LivePlot

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer


def check_trainer(
    trainer: "SFTTrainer", choice: Choice, conversations: "Dataset", folder: Path
) -> None:
    """CourseError unless the trainer holds what it is asked to train."""
    import torch

    settings, args = adapters.settings_of(trainer.model), trainer.args
    if not settings:
        raise CourseError(
            "This trainer's model has no adapter (any more).",
            "The cell that adds the adapter was run again after the trainer was built, or never.",
            FROM_THE_ADAPTER_ON,
        )
    held = {
        "epochs": (args.num_train_epochs, choice.epochs),
        "learning_rate": (args.learning_rate, models.learning_rate(choice, trainer.model)),
        "batch_size": (
            args.per_device_train_batch_size * args.gradient_accumulation_steps,
            choice.batch_size,
        ),
    }
    # On a GPU Unsloth takes it out of the settings (unsloth/models/rl.py), where it drops the padding.
    if not torch.cuda.is_available():
        held["max_seq_length"] = (args.max_length, choice.max_seq_length)
    # training_config.json gives these as the homework's.
    for name in ("weight_decay", "lr_scheduler_type", "seed"):
        held[name] = (getattr(args, name), presets.TRAINING[name])
    wrong = adapters.differences(settings, choice)
    wrong += [f"{name} is {a} instead of {b}" for name, (a, b) in held.items() if a != b]
    rows = data.to_prompt_completion(conversations)
    built_from = getattr(trainer, "prepared_rows", None)
    if built_from != rows.to_list() if built_from else len(trainer.train_dataset) != len(rows):
        wrong.append("its rows are not those of these conversations")
    name = re.escape(runs.name_of(choice))
    if re.match(r"r\d+-alpha", folder.name) and not re.fullmatch(rf"{name}(-\d+)?", folder.name):
        wrong.append(f"its folder is {folder.name}")
    if not any(isinstance(one, LivePlot) for one in trainer.callback_handler.callbacks):
        wrong.append("training.prepare was not called")
    if wrong:
        raise CourseError(
            f"This trainer was not built for what it shall train now: {'; '.join(wrong)}.",
            "The choice or the conversations have changed since, or a setting was changed in another place. One "
            "run would be filed as another.",
            FROM_THE_ADAPTER_ON,
        )


def check_folder(folder: Path, before: dict, record: dict) -> None:
    """CourseError if a folder holds another run than the one that shall be trained there."""
    wanted = {name: record[name] for name in ("model", "choice", "ids", "data")}
    if before and not runs.is_same(before, wanted):
        raise CourseError(
            f"The folder {folder.name} holds another run.",
            "Its run.json names another model, choice or other conversations.",
            "Run the cells again from the one with runs.folder_for on: it gives this run a folder of its own.",
        )


def check_saved(folder: Path, record: dict) -> None:
    """CourseError unless the adapter in a folder is the one that the record names."""
    file = folder / "adapter_config.json"
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CourseError(
            f"{file} cannot be read: {error}.",
            "It was deleted, cut off or edited by hand. An adapter is of no use without it.",
            "Copy the file of this name from a checkpoint folder beside it, or train again in notebook 05.",
        ) from error
    if wrong := adapters.differences(settings, Choice(**record["choice"])):
        raise CourseError(
            f"The adapter in {folder} is not the chosen one: {'; '.join(wrong)}.",
            "It comes from another run.",
            "Move that folder away, or choose other settings. " + FROM_THE_ADAPTER_ON,
        )


def check_model(model, run: runs.Run) -> None:
    """CourseError unless a model's adapter is the one that a run saved: answers would be filed as that run's.

    Args:
        model: a model in this session.
        run: what `training.train` returned.
    """
    if not adapters.holds(model, run.folder):
        raise CourseError(
            f"The model in this session does not hold the adapter of the run {run.folder.name}.",
            "The model or its adapter was made anew after that training, or the run's folder was deleted.",
            f"Train again: {FROM_THE_ADAPTER_ON}",
        )
