"""What happens beside a training: minutes are noted, the loss is drawn, and Stop is heard."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import base64
import contextlib
import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TrainerCallback

from helpers import checkpoints, runs
from helpers.errors import CourseError

FROM_THE_ADAPTER_ON = "Run the cells again in their order, from the one that adds the adapter (adapting.add_adapter) on."


class Clock(TrainerCallback):
    """Notes at each checkpoint how many minutes and tokens it took, so that a run that goes on counts on.

    Also how large the checkpoint's files are: by that a file that was cut off later is noticed.
    """

    def __init__(self, folder: Path, record: dict, minutes_before: float):
        self.folder, self.record, self.before = folder, record, minutes_before
        self.started = time.perf_counter()

    def minutes(self) -> float:
        """Minutes of training so far, those before an interruption included."""
        return round(self.before + (time.perf_counter() - self.started) / 60, 2)

    def on_save(self, args, state, control, **kwargs):
        tokens = round(self.record["tokens"] * state.global_step / state.max_steps)
        sizes = {
            path.name: checkpoints.sizes_in(path)
            for path in sorted(self.folder.glob("checkpoint-*"))
            if path.is_dir()
        }
        so_far = {"status": "started", "minutes": self.minutes(), "tokens": tokens}
        runs.write(self.folder, self.record | so_far | {"checkpoints": sizes})


class _Picture:
    """A PNG with a text for those who cannot see it; the Image of Colab's IPython, 7.34, knows none."""

    def __init__(self, png: bytes, text: str):
        self.png, self.text = png, text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_asked) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.text}
        return data, {"image/png": {"alt": self.text}}


class LivePlot(TrainerCallback):
    """Shows the training loss as a figure that is drawn again as training goes on, at most every half second."""

    def __init__(self):
        self.points: list[tuple[int, float]] = []
        self.handle = None

    def on_train_begin(self, args, state, control, **kwargs):
        # A training that goes on in another cell needs a picture there.
        self.handle = None
        self.points = [(e["step"], float(e["loss"])) for e in state.log_history if "loss" in e]
        self.started, self.drawn = time.perf_counter(), 0.0
        self.first_step = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        self.points.append((state.global_step, float(logs["loss"])))
        if time.perf_counter() - self.drawn > 0.5:
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        if self.handle is not None:
            self._draw(state)

    def _draw(self, state) -> None:
        from IPython.display import display

        from helpers import plots

        pace = (time.perf_counter() - self.started) / max(1, state.global_step - self.first_step)
        left = pace * (state.max_steps - state.global_step)
        text = f"step {state.global_step} of {state.max_steps}, loss {self.points[-1][1]:.2f}"
        text += f", about {left / 60:.1f} min left" if left > 1 else ""
        figure = plots.loss_curve(self.points, steps=state.max_steps, title=text)
        picture = _Picture(plots.png(figure), f"Training loss: {text}")
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        self.drawn = time.perf_counter()


class Stop(TrainerCallback):
    """Ends a training after the step in which Stop was pressed, with a checkpoint of that step.

    Stop reaches Python as the signal SIGINT, which would break off in the middle of a step, or of writing a file.
    """

    def __init__(self, lost: threading.Event):
        self.asked, self.lost = False, lost
        # Whether all steps are done: then the adapter is saved first.
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


def full(trainer, folder: Path) -> CourseError:
    """What is said where a step does not fit into the GPU's memory."""
    gc.collect()
    trainer.model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    rows_at_once = trainer.args.per_device_train_batch_size
    longest = max(map(len, trainer.train_dataset["input_ids"]))
    checkpoint = runs.newest_checkpoint(folder)
    return CourseError(
        f"Step {trainer.state.global_step + 1} of {trainer.state.max_steps} does not fit into the GPU's memory"
        + (f". {checkpoint.name} of the run {folder.name} is saved." if checkpoint else "."),
        f"It holds {rows_at_once} rows at once, of up to {longest} tokens. Another model in this session takes memory too.",
        "Restart the session, choose a smaller per_device_train_batch_size "
        f"(such as {max(1, rows_at_once // 2)}) or shorter conversations, and run the cells from the top.",
    )


def stopped(trainer, folder: Path) -> CourseError:
    """What is said after Stop: what is saved, and how to go on."""
    step, steps = trainer.state.global_step, trainer.state.max_steps
    checkpoint = runs.newest_checkpoint(folder)
    if checkpoint is None:
        return CourseError(
            f"Training was broken off after step {step} of {steps}.",
            "You pressed Stop twice, and no checkpoint was saved yet.",
            f"To train this run anew: {FROM_THE_ADAPTER_ON}",
        )
    return CourseError(
        f"Training was stopped after step {step} of {steps}.",
        f"Stop was pressed. The newest saved state is {checkpoint.name} of the run {folder.name}.",
        "Run this cell again to go on from there; in a new session, run the notebook from the top.",
    )
