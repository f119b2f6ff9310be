"""One picture of a training, drawn again while it runs; in a terminal one line at its end."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import base64
import sys
import time
from collections.abc import Sequence
from textwrap import fill

import torch
from transformers import TrainerCallback

from helpers import watching
from helpers.memory import GIB
from helpers.trainer_files import series
from helpers.watching import Updates

# Seconds between two pictures at least, and the share of the time that drawing may take.
PAUSE, SHARE = 1.0, 0.02
# Letters of the title that stand side by side in the picture.
LINE = 62
# A space at which no line is broken.
_KEPT = "\N{NO-BREAK SPACE}"


class Picture:
    """A PNG with a text for those who cannot see it; the Image of Colab's IPython, 7.34, knows none."""

    def __init__(self, png: bytes, text: str):
        self.png, self.text = png, text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_asked) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.text}
        return data, {"image/png": {"alt": self.text}}


class Panel(TrainerCallback):
    """Shows losses, gradient norm and learning rate as a picture, with what else is known as a line above.

    It is drawn at most once a second, and so seldom that drawing takes at most 2 % of the time. Outside Jupyter it
    shows nothing until the end, and prints that line. Add it after `watching.Looking` and `watching.Updates`.

    Args:
        updates: counts applied and skipped updates.
        predicted_gib: the peak of GPU memory that was predicted, without the CUDA context (`memory.estimate`).
        borders: steps after which the next stage of a curriculum begins.
    """

    def __init__(
        self,
        updates: Updates | None = None,
        predicted_gib: float | None = None,
        borders: Sequence[int] = (),
    ):
        self.updates, self.predicted_gib, self.borders = updates, predicted_gib, list(borders)
        self.log: list[dict] = []
        self.handle = None

    @property
    def points(self) -> list[tuple[int, float]]:
        """Step and training loss, those before an interruption included."""
        return series(self.log, "loss")

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # A training that goes on in another cell needs a picture there.
        self.handle, self.log = None, state.log_history
        self.shown = in_notebook()
        self.tokens = sum(map(len, train_dataloader.dataset["input_ids"]))
        self.first_step, self.first_epoch = state.global_step, state.epoch or 0.0
        self.started, self.next = time.perf_counter(), 0.0
        if self.shown:
            from helpers import plots  # noqa: F401  (now, so that it is no part of what drawing takes)

            self._draw(state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.log = state.log_history
        if self.shown and time.perf_counter() >= self.next:
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        if self.shown:
            self._draw(state)
        else:
            print(self.line(state))

    def line(self, state) -> str:
        """What is known about a training, in one line: step, losses, time, tokens, memory, updates."""
        seconds = time.perf_counter() - self.started
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        parts = [f"step {state.global_step} of {state.max_steps}"]
        for name, points in (("loss", self.points), ("held-out", watching.points(self.log))):
            parts += [f"{name} {points[-1][1]:.2f}"] if points else []
        if done:
            minutes = seconds / 60
            parts.append(f"{minutes / done * left:.1f} min left" if left else f"{minutes:.1f} min")
            trained = self.tokens * (state.epoch - self.first_epoch)
            parts.append(f"{trained / seconds:,.0f} tokens/s")
        parts.append(_memory(self.predicted_gib))
        if self.updates is not None and self.updates.applied + self.updates.skipped:
            parts.append(str(self.updates))
        return " · ".join(part for part in parts if part)

    def _draw(self, state) -> None:
        from IPython.display import display

        from helpers import plots

        before, line = time.perf_counter(), self.line(state)
        figure = plots.training(
            self.points,
            heldout=watching.points(self.log),
            norms=series(self.log, "grad_norm"),
            rates=series(self.log, "learning_rate"),
            borders=self.borders,
            steps=state.max_steps,
            title=wrapped(line),
        )
        picture = Picture(plots.png(figure), f"Training: {line}")
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        after = time.perf_counter()
        self.next = after + max(PAUSE, (after - before) / SHARE)


def wrapped(line: str) -> str:
    """A line of parts as several short ones; a part stays whole."""
    whole = line.replace(" ", _KEPT).replace(f"{_KEPT}·{_KEPT}", f"{_KEPT}· ")
    return fill(whole, LINE, break_on_hyphens=False).replace(_KEPT, " ")


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this: a terminal, IPython's among them, shows no pictures."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _memory(predicted_gib: float | None) -> str:
    """GPU memory that PyTorch reserves, now and at most; without a GPU what this process took at most."""
    if torch.cuda.is_available():
        now, peak = torch.cuda.memory_reserved() / GIB, torch.cuda.max_memory_reserved() / GIB
        predicted = f", {predicted_gib:.1f} predicted" if predicted_gib else ""
        return f"memory {now:.1f} now, {peak:.1f} peak{predicted} (GiB)"
    try:
        import resource
    except ImportError:  # Windows
        return ""
    # In KiB, on a Mac in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
    return f"memory {peak:.1f} peak (GiB)"
