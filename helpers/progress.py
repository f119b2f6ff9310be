"""What happens beside a training: minutes are noted, the loss is watched, and Stop is heard."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import contextlib
import errno
import gc
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, set_seed

from helpers import cautions, checkpoints, memory, plan, runs
from helpers.choice import Choice
from helpers.errors import CourseError
from helpers.trainer_files import STATE, series, state_in

if TYPE_CHECKING:
    from helpers.watching import Updates

# A checkpoint is written when so much time has passed since the last one, or after training.SAVE_STEPS steps.
SAVE_SECONDS = 120

FROM_THE_ADAPTER_ON = (
    "Run the cells again in their order, from the one that adds the adapter (adapting.add_adapter) on; only this cell "
    "where it makes the adapter itself."
)


class Clock(TrainerCallback):
    """Asks for a checkpoint when two minutes have passed since the last, and knows what a run took so far.

    Each checkpoint holds that, so that a run that goes on counts on; ``run.json`` repeats it for whoever looks there.
    """

    def __init__(self, folder: Path, record: dict, before: dict, updates: "Updates | None" = None):
        self.folder, self.record, self.updates = folder, record, updates
        self.before, self.peak = before.get("minutes", 0), before.get("peak_memory_gib") or 0
        self.stepped = False
        self.started = self.saved = time.perf_counter()

    def so_far(self, state) -> dict:
        """Minutes, tokens and updates of the steps until now, and the GPU's peak; what was before an interruption counts."""
        found = {
            "minutes": round(self.before + (time.perf_counter() - self.started) / 60, 2),
            "tokens": round(self.record["tokens"] * state.global_step / state.max_steps),
            "step": state.global_step,
            "steps": state.max_steps,
        }
        if self.updates is not None:
            found |= {
                "updates": self.updates.applied,
                "skipped_updates": self.updates.skipped,
            }
        if self.stepped and torch.cuda.is_available():
            now = round(torch.cuda.max_memory_reserved() / memory.GIB, 2)
            self.peak = max(self.peak, now)
        # A CPU has none; and a session without a step has only loaded a model.
        return found | ({"peak_memory_gib": self.peak} if self.peak else {})

    def on_step_end(self, args, state, control, **kwargs):
        self.stepped = True
        if time.perf_counter() - self.saved > SAVE_SECONDS:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.perf_counter()
        sizes = {
            path.name: checkpoints.sizes_in(path)
            for path in sorted(self.folder.glob("checkpoint-*"))
            if path.is_dir()
        }
        so_far = self.so_far(state) | {"status": "started", "checkpoints": sizes}
        runs.write(self.folder, self.record | so_far)


class Guard(TrainerCallback):
    """Ends a training whose loss is no number any more; no checkpoint is saved after it."""

    def __init__(self, trainer, folder: Path, choice: Choice):
        self.trainer, self.folder, self.choice = trainer, folder, choice

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise diverged(self.trainer, self.folder, self.choice, f"The loss is {loss}")


class Stop(TrainerCallback):
    """Ends a training after the step in which Stop was pressed, with a checkpoint of that step.

    Stop reaches Python as the signal SIGINT, which would break off in the middle of a step, or of writing a file.
    """

    def __init__(self, lost: threading.Event):
        self.asked, self.lost = False, lost
        # Whether the last step is done: then the adapter is saved first.
        self.trained = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear Stop, for the time of a ``with`` block; a second Stop breaks off at once, but not while the adapter
        is saved at the end."""
        if threading.current_thread() is not threading.main_thread():  # signals go to the main one
            yield
            return
        before = signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before or signal.default_int_handler)

    def _hear(self, number, frame):
        if self.trained:
            with contextlib.suppress(RuntimeError):
                print(
                    "The last step is done: the adapter is being saved, and Stop has no effect any more."
                )
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(RuntimeError):  # in the middle of another print
            print("Stopping after this step. Press Stop again to break off at once.")

    def on_step_end(self, args, state, control, **kwargs):
        if self.lost.is_set():
            raise CourseError(
                f"Training stopped after step {state.global_step}: another machine goes on with this run.",
                "This one wrote nothing to the folder for a long time (it was asleep, for instance).",
                "Let the other one finish.",
            )
        if self.asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self.trained = True


@contextlib.contextmanager
def afresh(trainer, checkpoint: Path | None = None) -> Iterator[None]:
    """A trainer without what an earlier training left in it, for the time of a ``with`` block; then its model as before.

    What a checkpoint holds, the trainer loads in the block; but for TRL's count of tokens, which is set here.

    Args:
        trainer: as TRL built it.
        checkpoint: where it will go on from; ``None`` where it begins.
    """
    # An SFTConfig made since, as in training.train, cleared what accelerators share; and float16's scale is in them.
    trainer.create_accelerator_and_postprocess()
    # What else is left of a training that was broken off: Adam's averages, and the place in the random numbers.
    trainer.optimizer = trainer.lr_scheduler = None
    # TRL counts on from the last step before, or in a new session from 0, whatever the checkpoint says.
    log = state_in(checkpoint / STATE).get("log_history", ()) if checkpoint else ()
    counted = series(log, "num_tokens")
    trainer._total_train_tokens = int(counted[-1][1]) if counted else 0
    set_seed(trainer.args.seed)
    try:
        yield
    finally:
        # Undo the automatic mixed precision around the model: answers then equal those after a reload.
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        # It stays marked as wrapped, and would go on without mixed precision.
        trainer.model.__dict__.pop("_is_accelerate_prepared", None)


DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTCONN),
)


@contextlib.contextmanager
def writing(trainer, folder: Path) -> Iterator[None]:
    """End in a CourseError where a file of a run cannot be written, for the time of a ``with`` block."""
    try:
        yield
    except Exception as error:
        # Python's own error, and how safetensors and torch.save put it.
        kinds = ("I/O error", "PytorchStreamWriter", "inline_container", *map(os.strerror, DISK))
        if getattr(error, "errno", None) not in DISK and not any(k in str(error) for k in kinds):
            raise
        raise _unwritable(trainer, folder, error) from error


def _unwritable(trainer, folder: Path, error: Exception) -> CourseError:
    checkpoint = None
    with contextlib.suppress(OSError, CourseError):  # Drive may be gone
        checkpoint = runs.newest_checkpoint(folder)
    return CourseError(
        f"After step {trainer.state.global_step} of {trainer.state.max_steps} nothing could be written to {folder}: "
        f"{getattr(error, 'strerror', None) or error}"
        + (f". {checkpoint.name} of the run is saved." if checkpoint else "."),
        "The disk is full, the folder may not be written to, or Drive is not mounted any more.",
        "Make room (old folders in runs/ can go), then run this cell again: it goes on from what is saved."
        if checkpoint
        else f"Make room (old folders in runs/ can go). Nothing is saved yet. {FROM_THE_ADAPTER_ON}",
    )


def full(trainer, folder: Path, choice: Choice) -> CourseError:
    """What is said where a step does not fit into the GPU's memory."""
    gc.collect()
    trainer.model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    rows_at_once = trainer.args.per_device_train_batch_size
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    checkpoint = runs.newest_checkpoint(folder)
    return CourseError(
        f"Step {trainer.state.global_step + 1} of {trainer.state.max_steps} does not fit into the GPU's memory"
        + (f". {checkpoint.name} of the run {folder.name} is saved." if checkpoint else "."),
        f"It holds {rows_at_once} rows at once, of up to {max(lengths)} tokens. Another model in this session takes memory too.",
        f"Restart the session, choose {_smaller(choice, trainer.model.config, rows_at_once, lengths)}, "
        "and run the cells from the top.",
    )


def _smaller(choice: Choice, config, rows_at_once: int, lengths: list[int]) -> str:
    """The smallest change that makes a step fit, by the memory model; where that knows none, fewer rows at once."""
    now = plan.of(
        replace(choice, per_device_train_batch_size=rows_at_once), config, lengths=lengths
    )
    if change := plan.smallest_change(now):
        return f"{change[0]} (by the memory model that fits on a T4)"
    if rows_at_once > 1:
        fewer = max(n for n in memory.divisors(choice.rows_per_update) if n < rows_at_once)
        return f"a smaller per_device_train_batch_size, such as {fewer},"
    return "shorter conversations or a smaller r"


def diverged(trainer, folder: Path, choice: Choice, what: str) -> CourseError:
    """What is said where a loss or the adapter is no number any more, with the usual causes."""
    checkpoint = runs.newest_checkpoint(folder)
    with contextlib.suppress(OSError, CourseError):  # the disk may be full, too
        runs.write(folder, runs.read(folder) | {"diverged": trainer.state.global_step})
    known = cautions.extremes(
        replace(choice, learning_rate=trainer.args.learning_rate), trainer.model.config
    )
    half = (
        " This GPU computes in fp16, where a number above 65,504 becomes infinite."
        if trainer.args.fp16
        else ""
    )
    return CourseError(
        f"{what} in step {trainer.state.global_step} of {trainer.state.max_steps}: the training diverged and was stopped."
        + (f" {checkpoint.name} of the run {folder.name} is kept." if checkpoint else ""),
        "An update moved the adapter too far. Usually learning_rate "
        f"(here {trainer.args.learning_rate:g}) or lora_alpha (here {choice.lora_alpha:g}) is too large."
        + half
        + "".join(f" {one}" for one in known),
        (
            "Choose as it says there. "
            if known
            else "Make learning_rate or lora_alpha ten times smaller in the choice. "
        )
        + FROM_THE_ADAPTER_ON,
    )


def broken_off(trainer, folder: Path) -> CourseError:
    """What is said after Stop was pressed twice: what is saved, and how to go on."""
    step, steps = trainer.state.global_step, trainer.state.max_steps
    checkpoint = runs.newest_checkpoint(folder)
    if checkpoint is None:
        return CourseError(
            f"Training was broken off after step {step} of {steps}.",
            "You pressed Stop twice, and no checkpoint was saved yet.",
            f"To train this run anew: {FROM_THE_ADAPTER_ON}",
        )
    return CourseError(
        f"Training was broken off after step {step} of {steps}.",
        f"You pressed Stop twice. The newest saved state is {checkpoint.name} of the run {folder.name}.",
        "Run this cell again to go on from there; in a new session, run the notebook from the top, with the same choice and rows.",
    )
