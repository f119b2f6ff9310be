"""What of a training is kept: whole checkpoints, the adapter with the lowest held-out loss, and the record."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import functools
import hashlib
import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerState

from helpers import (
    adapting,
    asked,
    best_adapter,
    checkpoints,
    data,
    memory,
    models,
    progress,
    runs,
    selection,
    stages,
    workspace,
)
from helpers.choice import Choice
from helpers.errors import CourseError
from helpers.trainer_files import STATE, looks

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

VERSIONS = ("unsloth", "unsloth_zoo", "transformers", "peft", "trl", "bitsandbytes", "torch")


# ------------------------------------------------------------------------------------- checkpoints
def write_whole_checkpoints(
    trainer: "SFTTrainer",
    folder: Path,
    record: dict,
    clock: progress.Clock,
    best: "best_adapter.Best",
    choice: Choice,
) -> None:
    """From now on this trainer's checkpoints are whole or not there, and say what they belong to."""
    names = (
        "model",
        "choice",
        "data",
        "heldout",
        "optim",
        *runs.BASE,
        "versions",
        "model_revision",
    )
    whose = {name: record.get(name) for name in names}
    # A later training of this trainer puts its own in place.
    trainer._save_checkpoint = functools.partial(_save, trainer, folder, whose, clock, best, choice)


def _save(
    trainer: "SFTTrainer",
    folder: Path,
    whose: dict,
    clock: progress.Clock,
    best: "best_adapter.Best",
    choice: Choice,
    model,
    trial,
) -> None:
    """In place of Trainer's own: CourseError instead of a checkpoint with numbers that are none."""
    if adapting.fault(trainer.model) == adapting.DIVERGED:
        raise progress.diverged(trainer, folder, choice, "The adapter holds NaN or infinity")
    so_far = clock.so_far(trainer.state) | {"ended_early": best.ended_early}
    checkpoints.write_whole(trainer, model, trial, whose | so_far)


def check_space(trainer: "SFTTrainer", folder: Path) -> None:
    """CourseError unless there is room: adapter and both Adam states in float32, for each checkpoint.

    An old checkpoint is deleted after the next one is written.
    """
    trainable = trainer.model.get_nb_trainable_parameters()[0]
    # The checkpoints and the one being written; and in float32 the best adapter, the one being saved, and the last.
    size = (checkpoints.KEPT + 1) * 12 * trainable + 3 * 4 * trainable
    workspace.need_space(size / memory.GIB + 0.05, f"the run in {folder.name}", folder)


def so_far(checkpoint: Path | None, before: dict) -> dict:
    """What a training that goes on counts on from: the checkpoint's numbers; an older one has them in the record."""
    if checkpoint is None:
        return {}
    kept = (
        *("minutes", "tokens", "step", "steps", "checkpoints"),
        *("updates", "skipped_updates", "peak_memory_gib"),
    )
    found = before | checkpoints.so_far(checkpoint)
    return {name: found[name] for name in kept if name in found}


def check_belongs(checkpoint: Path, record: dict) -> None:
    """CourseError if a checkpoint is of another run; other versions of the libraries are said."""
    asked.check_saved(checkpoint, record)
    so_far = checkpoints.so_far(checkpoint)
    names = ("model", "choice", "data", "heldout", "optim", *runs.BASE)
    names = [name for name in names if so_far.get(name) is not None]
    if other := [name for name in names if not runs.is_same(so_far, {name: record[name]})]:
        raise CourseError(
            f"{checkpoint.name} in {checkpoint.parent.name} is of another run: other {', other '.join(map(_word, other))}.",
            "It was copied here, another machine or COURSE_HELDOUT made it, or the run's record was edited. One run would go "
            "on as another.",
            "Set back what has changed, then run this cell again. Or train anew: move all checkpoint folders in "
            f"{checkpoint.parent} away. {progress.FROM_THE_ADAPTER_ON}",
        )
    before, now = so_far.get("versions") or {}, record["versions"]
    moved = [f"{n} {before[n]} (now {now[n]})" for n in now if before.get(n, now[n]) != now[n]]
    began, commit = so_far.get("model_revision"), record["model_revision"]
    if began and commit and began != commit:
        moved.append(f"the base model's commit {began:.12} (now {commit:.12})")
    if moved:
        print(
            f"It was saved with {', '.join(moved)}: the losses from here on may differ a little from those of a run "
            "that was never interrupted."
        )


def _word(name: str) -> str:
    return {"heldout": "held-out rows", "optim": "optimizer"}.get(name, name)


def is_complete(checkpoint: Path | None) -> bool:
    """Whether a checkpoint is of the last step of its training: the machine went away before the run was saved."""
    if checkpoint is None:
        return False
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    done = state["global_step"] >= state["max_steps"]
    return done or bool(checkpoints.so_far(checkpoint).get("ended_early"))


def take_over(trainer: "SFTTrainer", checkpoint: Path) -> bool:
    """Put a trainer where it was at a checkpoint, without a step more; whether the training had ended early."""
    adapting.put_back(trainer.model, checkpoint)
    trainer.state = TrainerState.load_from_json(str(checkpoint / STATE))
    return bool(checkpoints.so_far(checkpoint).get("ended_early"))


def say_end(folder: Path, record: dict, history: list[dict]) -> None:
    """One sentence where a run ended before its last step, and one where its last adapter is not the best one."""
    if record["status"] == "stopped":
        print(
            f"Training {runs.how_far(record)}: the run {folder.name} is saved as it is now. Run this cell again to go on "
            "from there, or go on with this notebook and what there is."
        )
    elif record.get("ended_early"):
        patience = record["choice"]["patience"]
        print(
            f"Training ended early, after step {record['step']} of {record['steps']}: for {patience} "
            f"{'look' if patience == 1 else 'looks'} the held-out loss was not lower than before."
        )
    best, taken = record["best"], looks(history)
    # The model of a run beside the student's own gets that one's adapter back.
    take = "run = best_adapter.take(run, model)"
    take = f"best_adapter.take({folder.name!r})" if record.get("beside") else take
    if best and taken and best["step"] < record["step"]:
        print(
            f"Held-out loss was lowest at step {best['step']} ({best['loss']:.2f}; at the end {taken[-1][1]:.2f}). "
            f"from helpers import best_adapter; {take} takes that adapter."
        )


# ----------------------------------------------------------------------------------------- the record
def describe(trainer: "SFTTrainer", choice: Choice, conversations: "Dataset") -> dict:
    """What a record says before the first step; `runs.asked_of` is the part that makes it this run."""
    args, template = trainer.args, str(trainer.processing_class.chat_template)
    # The model that was loaded, also where COURSE_MODEL has changed since.
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]
    return runs.asked_of(choice, conversations, models.name_of(trainer.model)) | {
        "tokens": round(sum(lengths) * choice.num_train_epochs),
        "longest_row": max(lengths),
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "learning_rate": args.learning_rate,
        "warmup_steps": args.warmup_steps,
        "seed": args.seed,
        "optim": str(getattr(args.optim, "value", args.optim)),
        "load_in_4bit": adapting.in_4bit(trainer.model),
        "number_format": number_format(args),
        "chat_template": hashlib.sha256(template.encode()).hexdigest()[:16],
        # Of a model from the Hub: the commit that was downloaded.
        "model_revision": getattr(trainer.model.config, "_commit_hash", None),
        "trainable_parameters": trainer.model.get_nb_trainable_parameters()[0],
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        **({"stages": stages.summary(conversations, choice)} if choice.stages else {}),
    }


def describe_heldout(rows: "Dataset") -> dict:
    """Which held-out rows a training was watched on, and a hash of what stands in them."""
    sha = selection.fingerprint(rows)
    return {"file": data.heldout_path().name, "rows": len(rows), "sha": sha}


def predicted_gib(record: dict, model) -> float | None:
    """The peak of GPU memory that is to be expected; ``None`` for a model that the memory model does not know."""
    try:
        return memory.estimate(
            model.config,
            r=record["choice"]["r"],
            per_device_train_batch_size=record["per_device_train_batch_size"],
            max_length=record["longest_row"],
            target_modules=record["choice"]["target_modules"],
        ).total
    except CourseError:
        return None


def number_format(args) -> str:
    """In what a training computes: ``bfloat16``, ``float16`` or ``float32``."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def machine() -> dict[str, str]:
    """The name of the GPU, or of the processor where there is none, and Python's version."""
    if torch.cuda.is_available():
        named = {"gpu": torch.cuda.get_device_name()}
    else:
        about = Path("/proc/cpuinfo")
        text = about.read_text(encoding="utf-8") if about.is_file() else ""
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        named = {"cpu": found[1].strip() if found else platform.processor()}
    return named | {"python": platform.python_version()}
