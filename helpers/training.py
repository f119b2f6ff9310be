"""Build the trainer from a choice; train, or go on where a training stopped."""

from helpers import unsloth_first  # noqa: F401  # isort: skip
from unsloth import is_bfloat16_supported

import contextlib
import io
import math
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from helpers import (
    adapting,
    asked,
    best_adapter,
    checkpoints,
    claims,
    copier,
    copies,
    data,
    homework,
    keeping,
    manifests,
)
from helpers import memory, models, presets, progress, runs, selection, stages, tokens, workspace
from helpers.choice import Choice
from helpers.errors import CourseError
from helpers.panel import Panel
from helpers.progress import Clock, Guard, Stop
from helpers.watching import Looking, Updates

if TYPE_CHECKING:
    from datasets import Dataset

# Rows that go through a CPU at once. Of 1, 2 and 4, four steps on the homework's 100 rows took 25.4, 24.0 and 27.3 s in
# 32 bits, 41.7, 38.2 and 40.3 s in bfloat16 (the small model, 2 cores): more rows hold more padding.
CPU_ROWS_AT_ONCE = 2
# Up to so many tokens at once a CPU keeps the results of the forward pass. With 4 of the course's rows at once,
# 8 steps then took 46.8 s instead of 58.7 s and 1.1 GiB more memory, with the same loss (2 cores).
CPU_KEPT_TOKENS = 2048
# A free machine may go at any time: so many steps are lost at most, or progress.SAVE_SECONDS.
SAVE_STEPS = 5


def per_device_train_batch_size(model, choice: Choice, longest: int) -> int:
    """Rows that go through the machine at once; ``longest`` is the longest row in tokens."""
    if choice.per_device_train_batch_size is not None:
        return choice.per_device_train_batch_size
    if not torch.cuda.is_available():
        return math.gcd(choice.rows_per_update, CPU_ROWS_AT_ONCE)
    # Less than 1 where a larger GPU is limited to a T4's memory.
    share = torch.cuda.get_per_process_memory_fraction()
    gib = share * torch.cuda.get_device_properties(0).total_memory / memory.GIB - memory.SPARE_GIB
    return memory.per_device_train_batch_size(
        model.config,
        r=choice.r,
        rows_per_update=choice.rows_per_update,
        max_length=longest,
        gib=gib,
        target_modules=choice.target_modules,
    )


def build_trainer(
    model, tokenizer, conversations: "Dataset", choice: Choice, folder: Path
) -> SFTTrainer:
    """An `SFTTrainer` for a model with an adapter, with the homework's settings.

    Args:
        model: what `adapting.add_adapter` returned.
        tokenizer: the model's, with a chat template.
        conversations: at most 100 rows as `data.load_conversations` gives them.
        choice: rank, alpha, rows an update, epochs and so on.
        folder: where checkpoints go, and the adapter at the end.
    """
    selection.check_rows(conversations)
    longest = max(data.check_lengths(conversations, tokenizer, choice.max_length))
    rows = stages.training_rows(conversations, choice)
    rows_at_once = per_device_train_batch_size(model, choice, longest)
    config = build_config(choice, len(rows), rows_at_once, folder, model)
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=config)
    return prepare(trainer, rows)


def build_config(
    choice: Choice, row_count: int, rows_at_once: int, folder: Path, model=None
) -> SFTConfig:
    """The settings of a training; notebook 05 writes the same ones out and explains them.

    Args:
        choice: rows an update, epochs, learning rate and longest row.
        row_count: prompt/completion rows.
        rows_at_once: see `per_device_train_batch_size`.
        folder: where checkpoints go.
        model: the loaded model, for its learning rate; without one, this machine's.
    """
    return SFTConfig(
        **choice.training_arguments(row_count, rows_at_once, models.learning_rate(choice, model)),
        output_dir=str(folder),
        fp16=not is_bfloat16_supported(),
        bf16=is_bfloat16_supported(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=checkpoints.KEPT,
        report_to="none",
        disable_tqdm=True,
    )


def prepare(trainer: SFTTrainer, rows: "Dataset | None" = None) -> SFTTrainer:
    """Keep the adapter in float32 and marks in texts as text; show losses as a picture instead of printed lines.

    On a CPU, TRL turns the adapter of a 4-bit model into bfloat16 when the trainer is built. Its 8 bits
    are too few for small updates, and a resumed run would differ. On a GPU Unsloth prevents that.

    A CPU has memory to spare for short rows: gradient checkpointing, which saves it for time, is off then.

    The trainer takes the tokenizer's own marks in a text for marks; `tokens.keep_marks_as_text` says more.

    Args:
        trainer: as TRL built it.
        rows: the prompt/completion rows it was built from; `train` compares them with what it is asked for, and
            refuses a trainer that was prepared without.
    """
    trainer.prepared_rows = None
    if rows is not None:
        trainer.train_dataset = tokens.keep_marks_as_text(
            trainer.train_dataset, rows, trainer.processing_class
        )
        trainer.prepared_rows = rows.to_list()
    trainer.prepared_dataset = trainer.train_dataset
    at_once = trainer.args.per_device_train_batch_size * max(
        map(len, trainer.train_dataset["input_ids"])
    )
    if not torch.cuda.is_available() and at_once <= CPU_KEPT_TOKENS:
        trainer.args.gradient_checkpointing = False
        trainer.model.gradient_checkpointing_disable()
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if trained_in := getattr(trainer.model, "trained_in", None):
        adapting.put_back(trainer.model, Path(trained_in))
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(Panel)
    trainer.add_callback(Panel())
    return trainer


def train(
    trainer: SFTTrainer, choice: Choice, conversations: "Dataset", *, latest: bool = True
) -> runs.Run:
    """Train, or go on where an interrupted run stopped; save the adapter and ``run.json``.

    Nothing that was computed is lost when the machine goes away: the folder holds the newest checkpoints,
    and calling this again with the same trainer goes on from them. Stop ends the training after the step it is in, and
    the run is returned as it is then (``status`` is "stopped"); calling this again goes on. A run that is finished is
    returned as it is. ``latest`` makes it the run that notebooks 06 and 07 look at.

    Raises:
        CourseError: the trainer was not built for this choice and these conversations; another notebook trains
            this run; the loss is no number any more; or Stop was pressed twice, and where the training can go on.
    """
    selection.check_rows(conversations)
    home = Path(trainer.args.output_dir).absolute()
    usual = _usual(trainer, choice, conversations)
    asked.check_trainer(trainer, choice, conversations, home, usual)
    record = keeping.describe(trainer, choice, conversations)
    looking = data.heldout("looking", presets.size().looking)
    record |= {"beside": not latest, "heldout": keeping.describe_heldout(looking)}
    with (
        claims.claim(home) as lost,
        (stop := Stop(lost)).listening(),
        copier.on_this_machine(trainer, home, record) as folder,
    ):
        before = runs.read(folder)
        asked.check_folder(folder, before, record)
        if not runs.is_finished(folder):
            keeping.check_space(trainer, folder)
            selection.check_apart(conversations, looking)
            watch = [stop, Looking(looking, trainer.processing_class)]
            record = _train(trainer, folder, record, before, conversations, choice, watch)
        else:
            asked.check_finished(trainer.model, folder)
            record = before
        folder = copies.finish(folder, home)
        trainer.model.trained_in = str(folder)
        if latest and folder == home:
            workspace.write_json("latest_run.json", {"name": folder.name})
    return runs.Run(folder, record)


def _usual(trainer: SFTTrainer, choice: Choice, conversations: "Dataset") -> SFTConfig:
    """The settings that a trainer for this choice has; what Unsloth prints about them was printed before."""
    count, folder = len(stages.training_rows(conversations, choice)), Path(trainer.args.output_dir)
    with contextlib.redirect_stdout(io.StringIO()):
        return build_config(choice, count, 1, folder, trainer.model)


def _train(
    trainer: SFTTrainer,
    folder: Path,
    record: dict,
    before: dict,
    conversations: "Dataset",
    choice: Choice,
    watch: list[TrainerCallback],
) -> dict:
    """Train to the end, or to where Stop was pressed, and return the record."""
    stop, _ = watch
    checkpoint = _checkpoint(trainer, folder, record, before)
    for place in {folder, workspace.path("runs", folder.name).absolute()}:  # on Drive two
        homework.set_aside(place)
    so_far = keeping.so_far(checkpoint, before)
    workspace.write_json(folder / "conversations.json", conversations.to_list())
    runs.write(folder, record | so_far | {"status": "started"})
    clock, best = _listen(trainer, folder, record, so_far, choice, watch)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with progress.afresh(trainer, checkpoint), progress.writing(trainer, folder):
            stop.trained = keeping.is_complete(checkpoint)
            if stop.trained:
                best.ended_early = keeping.take_over(trainer, checkpoint)
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise progress.broken_off(trainer, folder) from None
    except torch.OutOfMemoryError as error:
        # The frames of the error hold what filled the memory.
        traceback.clear_frames(error.__traceback__)
        raise progress.full(trainer, folder, choice) from None
    # Again, where somebody deleted the workspace meanwhile.
    workspace.write_json(folder / "conversations.json", conversations.to_list())
    return _save(trainer, folder, record | clock.so_far(trainer.state), best.ended_early)


def _checkpoint(trainer: SFTTrainer, folder: Path, record: dict, before: dict) -> Path | None:
    """Where a training goes on, with a word about it; CourseError if it has to begin, and the adapter is trained."""
    if checkpoints.remove_partial(folder):
        print("A checkpoint that was half written when the training ended was removed.")
    checkpoint = runs.newest_checkpoint(folder)
    if checkpoint:
        keeping.check_belongs(checkpoint, record)
        print(f"Going on from {checkpoint.name}.")
    elif adapting.is_trained(trainer.model):
        raise CourseError(
            f"This adapter has been trained already, and {folder.name} has no checkpoint to go on from.",
            "A run starts from an untrained adapter.",
            progress.FROM_THE_ADAPTER_ON,
        )
    else:
        best_adapter.forget(folder)
        if before:
            print("No whole checkpoint is there: training starts anew.")
    return checkpoint


def _listen(
    trainer: SFTTrainer,
    folder: Path,
    record: dict,
    so_far: dict,
    choice: Choice,
    watch: list[TrainerCallback],
) -> tuple[Clock, best_adapter.Best]:
    """Give the trainer what listens to its steps, in the order in which they have to hear of one."""
    updates = Updates(so_far.get("updates", 0), so_far.get("skipped_updates", 0))
    clock = Clock(folder, record, so_far, updates)
    best = best_adapter.Best(folder, choice.patience)
    panel = Panel(updates, keeping.predicted_gib(record, trainer.model), stages.borders(record))
    guard = Guard(trainer, folder, choice)
    for callback in (updates, clock, *watch, guard, best, panel):
        trainer.remove_callback(type(callback))
        trainer.add_callback(callback)
    keeping.write_whole_checkpoints(trainer, folder, record, clock, best, choice)
    return clock, best


def _save(trainer: SFTTrainer, folder: Path, record: dict, ended_early: bool) -> dict:
    """Save the adapter and the record of a run that is finished or stopped; return the record."""
    state = trainer.state
    whole = ended_early or state.global_step >= state.max_steps
    record["status"] = "finished" if whole else "stopped"
    if ended_early:
        record["ended_early"] = True
    found = adapting.fault(trainer.model)
    # After the very first steps nothing has moved yet: the learning rate begins at 0, and fp16 skips updates.
    if found and (whole or found == adapting.DIVERGED):
        record["fault"] = found
        print(found)
    with progress.writing(trainer, folder):
        trainer.save_model(str(folder))
        trainer.save_state()
    record |= manifests.kept(folder, runs.KEPT_FILES)
    record["best"] = best_adapter.of(folder)
    asked.check_saved(folder, record)
    trainer.model.trained_in = str(folder)
    runs.write(folder, record)
    keeping.say_end(folder, record, state.log_history)
    return record
