"""Is what a session holds what it is asked for? A trainer, a folder and an adapter beside a choice and its rows."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import adapting, manifests, models, runs, stages, workspace
from helpers.choice import Choice, choice_from
from helpers.errors import CourseError
from helpers.progress import FROM_THE_ADAPTER_ON
from helpers.trainer_files import ADAPTER

# What decides about the result, and is the same in every run of the course.
FIXED = (
    *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "seed"),
    *(
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "max_steps",
        "label_smoothing_factor",
        "data_seed",
        "dataloader_drop_last",
        "ignore_data_skip",
    ),
    *(
        "train_sampling_strategy",
        "neftune_noise_alpha",
        "completion_only_loss",
        "assistant_only_loss",
    ),
    *("packing", "loss_type", "eos_token", "pad_token", "chat_template_path", "dataset_kwargs"),
    *("optim_args", "optim_target_modules", "auto_find_batch_size", "use_liger_kernel"),
)

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer


def check_trainer(
    trainer: "SFTTrainer",
    choice: Choice,
    conversations: "Dataset",
    folder: Path,
    usual: "SFTConfig",
) -> None:
    """CourseError unless the trainer holds what it is asked to train.

    Args:
        trainer, choice, conversations: as for `training.train`.
        folder: where the trainer's run goes.
        usual: the course's own settings for this choice and these conversations.
    """
    if folder.parent != workspace.path("runs").absolute():
        raise CourseError(
            f"This run would go to {folder}, which is not in {workspace.path('runs')}.",
            "Runs are found there only. SFTConfig names another output_dir, or the workspace has changed since its cell "
            "ran (Drive was mounted, for instance).",
            "Run the cells again from the one with runs.folder_for on.",
        )
    if not adapting.settings_of(trainer.model):
        raise CourseError(
            "This trainer's model has no adapter (any more).",
            "The cell that adds the adapter was run again after the trainer was built, or never.",
            FROM_THE_ADAPTER_ON,
        )
    if wrong := _wrong(trainer, choice, conversations, folder, usual):
        raise CourseError(
            f"This trainer was not built for what it shall train now: {'; '.join(wrong)}.",
            "The choice or the conversations have changed since, or a number of the choice was written into SFTConfig. "
            "One run would be filed as another.",
            "Set such numbers in the choice: choice = dataclasses.replace(choice, learning_rate=1e-3). "
            + FROM_THE_ADAPTER_ON,
        )
    _check_fixed(trainer.args, usual)


def _wrong(
    trainer: "SFTTrainer",
    choice: Choice,
    conversations: "Dataset",
    folder: Path,
    usual: "SFTConfig",
) -> list[str]:
    """What a trainer holds instead of what it is asked to train, in words."""
    import torch

    settings, args = adapting.settings_of(trainer.model), trainer.args
    chosen = {
        "num_train_epochs": (args.num_train_epochs, choice.num_train_epochs),
        "learning_rate": (args.learning_rate, models.learning_rate(choice, trainer.model)),
        "rows_per_update": (
            args.per_device_train_batch_size * args.gradient_accumulation_steps,
            choice.rows_per_update,
        ),
    }
    # On a GPU Unsloth (unsloth/models/rl.py) chooses the number format by itself, and takes max_length out of the
    # settings where it drops the padding.
    if not torch.cuda.is_available():
        chosen["max_length"] = (args.max_length, choice.max_length)
        chosen |= {name: (getattr(args, name), getattr(usual, name)) for name in ("fp16", "bf16")}
    rows = stages.training_rows(conversations, choice)
    wrong = adapting.differences(settings, choice)
    # Some versions of PyTorch say that a T4 has bfloat16, which it would only imitate, slowly.
    if torch.cuda.is_available() and args.bf16 and torch.cuda.get_device_capability() < (8, 0):
        wrong.append("it would train in bfloat16, which this GPU does not compute with (fp16=True)")
    if more := adapting.trains_more(trainer.model):
        wrong.append(f"it would train {len(more)} weights of the base model too, such as {more[0]}")
    wrong += [f"{name} is {a} instead of {b}" for name, (a, b) in chosen.items() if a != b]
    prepared = getattr(trainer, "prepared_rows", None)
    if prepared is None:
        wrong.append("training.prepare(trainer, rows) was not called with its rows, or did not end")
    elif prepared != rows.to_list():
        wrong.append("its rows are not those of these conversations")
    elif trainer.train_dataset is not trainer.prepared_dataset:
        wrong.append("its train_dataset was replaced after training.prepare")
    tokenizer = trainer.processing_class
    if (end := getattr(tokenizer, "loaded_end", tokenizer.eos_token)) != tokenizer.eos_token:
        wrong.append(
            f"its tokenizer ends answers with {tokenizer.eos_token}, not with {end}: an SFTConfig with eos_token "
            "changed it, and models.load brings it back"
        )
    name = re.escape(runs.name_of(choice))
    if re.match(r"r\d+-alpha", folder.name) and not re.fullmatch(rf"{name}(-\d+)?", folder.name):
        wrong.append(f"its folder is {folder.name}")
    return wrong


def _check_fixed(args: "SFTConfig", usual: "SFTConfig") -> None:
    """CourseError unless what no choice holds is as usual: ``run.json`` and training_config.json give that."""
    wrong = [name for name in FIXED if getattr(args, name) != getattr(usual, name)]
    if wrong:
        named = [
            f"{name} = {getattr(args, name)} instead of {getattr(usual, name)}" for name in wrong
        ]
        raise CourseError(
            f"SFTConfig has {'; '.join(named)}.",
            "The course compares runs by their choices, and a choice does not hold this: the run would be filed as "
            "another one.",
            "Write it as before, and run the cells from SFTConfig on. Your own experiment: trainer.train() in place of "
            "training.train keeps no record.",
        )


def check_folder(folder: Path, before: dict, record: dict) -> None:
    """CourseError if a folder holds another run than the one that shall be trained there."""
    changed = [
        name for name in runs.BASE if before and before.get(name, record[name]) != record[name]
    ]
    if "number_format" in changed and before.get("status") in runs.UNFINISHED:
        raise CourseError(
            f"The run in {folder.name} began in {before['number_format']}, and this machine trains in "
            f"{record['number_format']}.",
            "Each is rounded in another way: half of one and half of the other would be a run that nobody can repeat.",
            f"Go on with it on a machine of the first kind ({_named(before)}), or move that folder away to train anew; "
            "then run the cells from the one with models.load on.",
        )
    if changed and before.get("status") in runs.UNFINISHED:
        began = {
            "load_in_4bit": f"load_in_4bit={before.get('load_in_4bit')}",
            "chat_template": "the template that it began with",
        }
        raise CourseError(
            f"The run in {folder.name} began with another {' and another '.join(changed)}.",
            "It would go on with a model that answers otherwise, or reads questions in another form, and its record "
            "would not say so.",
            f"Load the model with {' and '.join(began[name] for name in changed)}, or move that folder away; then run "
            "the cells from the one with models.load on.",
        )
    wanted = {name: record[name] for name in runs.IDENTITY}
    if before and not runs.is_same(before, wanted):
        raise CourseError(
            f"The folder {folder.name} holds another run.",
            "Its run.json names another model, choice or other conversations.",
            "Run the cells again from the one with runs.folder_for on: it gives this run a folder of its own.",
        )


def check_finished(model, folder: Path) -> None:
    """Say that a run is finished; CourseError unless its adapter is the model's."""
    check_saved(folder, runs.read(folder))
    if not adapting.holds(model, folder):
        # Before it is on Drive, its folder there is given to nothing else (runs.folder_for).
        here_only = "Let it get to Drive first: make room there, or mount it again. "
        raise CourseError(
            f"The run {folder.name} is finished, and its adapter is not the one of this trainer's model.",
            "It was finished in another notebook, or the adapter was made anew since. Nothing was overwritten.",
            (here_only if workspace.TRAINING in folder.parts else "")
            + "For a new run, run the cells again from the one with runs.folder_for on.",
        )
    print(
        f"The run {folder.name} is finished, and nothing was trained now. For another one change the choice, and run "
        "the cells from the one that adds the adapter on."
    )


def _named(record: dict) -> str:
    """The GPU or the processor that a record names."""
    machine = record.get("machine") or {}
    return machine.get("gpu") or machine.get("cpu") or "as before"


def check_saved(folder: Path, record: dict, anew: str = FROM_THE_ADAPTER_ON) -> None:
    """CourseError unless the adapter in a folder is the one that the record names.

    Args:
        folder, record: of a run, or of one of its checkpoints.
        anew: how the student trains this run again, once its folder is away.
    """
    again = f"To train it again, move that folder away. {anew}"
    if not any((folder / name).exists() for name in ("run.json", "adapter_config.json", ADAPTER)):
        raise CourseError(
            f"The folder {folder} is gone, or empty.",
            "It was deleted or moved, or the workspace was: the run's adapter was in it.",
            f"Put it back; or train anew. {anew}",
        )
    if (record.get("best") or {}).get("taking"):
        raise CourseError(
            f"The adapter of the run {folder.name} is its last one or its best one: nobody knows which.",
            "The machine went away, or Stop was pressed, while the best one was put in its place.",
            f"from helpers import best_adapter, runs, workspace; folder = workspace.path('runs', {folder.name!r}); "
            "best_adapter.take(runs.Run(folder, runs.read(folder))) puts the best one there. Then run this cell again.",
        )
    file = folder / "adapter_config.json"
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CourseError(
            f"{file} cannot be read: {error}.",
            "It was deleted, cut off or edited by hand. An adapter is of no use without it.",
            f"{_spare(folder, record, file.name)}{again}",
        ) from error
    if wrong := manifests.changed(folder, record):
        raise CourseError(
            f"In {folder}, {wrong}.",
            "The run was saved with another file. Without that the model would answer otherwise, or not at all.",
            f"{_spare(folder, record, wrong.split()[0])}{again}",
        )
    choice = choice_from(record.get("choice"), folder / "run.json", runs.TRAIN_AGAIN)
    if wrong := adapting.differences(settings, choice):
        raise CourseError(
            f"The adapter in {folder} is not the chosen one: {'; '.join(wrong)}.",
            "It comes from another run.",
            again,
        )


def _spare(folder: Path, record: dict, name: str) -> str:
    """Where the same file of a run is once more, as advice; empty where it is not."""
    taken = (record.get("best") or {}).get("taken")
    last = f"checkpoint-{record.get('step')}"
    for place in ("best",) if taken and name == ADAPTER else (last, "best"):
        if (folder / place / name).is_file():
            return f"Copy the file of this name from the folder {place} in it. "
    return ""


def check_unchanged(run: runs.Run) -> None:
    """CourseError where a run has another adapter by now than the one that answered: its answers would be filed wrongly."""
    now = runs.read(run.folder)
    check_saved(run.folder, now or run.record)
    if now.get("adapter_sha256") != run.record.get("adapter_sha256"):
        raise CourseError(
            f"The run {run.folder.name} has another adapter than the one that answered.",
            "It was trained on since, or its best adapter was taken.",
            "Run the cell that answers again, then this one.",
        )


def check_model(model, run: runs.Run) -> None:
    """CourseError unless a model's adapter is the one that a run saved: answers would be filed as that run's.

    Args:
        model: a model in this session.
        run: what `training.train` or `earlier.finished_run` returned.
    """
    now, holds = runs.read(run.folder), adapting.holds(model, run.folder)
    if not holds:
        check_saved(run.folder, now or run.record)
    if now and not runs.is_same(now, {name: run.record.get(name) for name in runs.IDENTITY}):
        raise CourseError(
            f"The folder {run.folder.name} holds another run than this session's.",
            "The one that this session trained or found was deleted or moved, and another got its name.",
            "Train again: run the cells from the one that adds the adapter on. In notebook 06, run it from the top.",
        )
    if now and now.get("adapter_sha256") != run.record.get("adapter_sha256"):
        raise CourseError(
            f"The run {run.folder.name} is not what it was when this session trained or found it.",
            "It was trained on, or its best adapter was taken, and `run` is as it was before.",
            f"from helpers import adapting, records; run = records.find({run.folder.name!r}); adapting.put_back(model, "
            "run.folder). Then run the cells that measure and answer again.",
        )
    if not holds:
        raise CourseError(
            f"The model in this session does not hold the adapter of the run {run.folder.name}.",
            "The model or its adapter was made anew since, or another run is the latest by now.",
            "Run the cells again in their order, from the one with models.load on.",
        )
