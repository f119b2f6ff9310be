"""While a run trains on this machine's disk, its first checkpoint goes to Drive, and the newest every few minutes."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from helpers import copies
from helpers.errors import CourseError

if TYPE_CHECKING:
    from trl import SFTTrainer

# Between two copies.
COPY_SECONDS = 300


@contextlib.contextmanager
def on_this_machine(
    trainer: "SFTTrainer", home: Path, wanted: dict | None = None
) -> Iterator[Path]:
    """Train in a folder on this machine's disk where the run's own is on Drive, for the time of a ``with`` block.

    What there is of the run is brought there first (`copies.bring`). Elsewhere than on Drive this changes nothing.

    Args:
        trainer: its output_dir names another folder meanwhile.
        home: the run's folder, as `runs.folder_for` gives it.
        wanted: the record of the run that is to be trained.

    Yields:
        the folder to train in.

    Raises:
        CourseError: Drive is not there, or this machine's disk is full.
    """
    folder = copies.bring(home, wanted)
    if folder == home:
        yield folder
        return
    copier = Copier(folder, home)
    trainer.args.output_dir = str(folder)
    trainer.add_callback(copier)
    try:
        yield folder
    except BaseException:
        copier.copy_at_the_end()
        raise
    finally:
        trainer.args.output_dir = str(home)
        trainer.remove_callback(copier)


class Copier(TrainerCallback):
    """Copies the first checkpoint to Drive, and after five minutes each time the newest one.

    The first one at once: many a training on a T4 ends within five minutes. While Drive is full or gone, training goes on.

    One sentence says that it is, and one that it is back.
    """

    def __init__(self, local: Path, home: Path):
        self.local, self.home = local, home
        self.fault, self.began = None, False
        self.next = -math.inf

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = True
        self._try(lambda: copies.announce(self.local, self.home))

    def on_save(self, args, state, control, **kwargs):
        if time.perf_counter() >= self.next:
            self.copy()

    def copy(self) -> None:
        """Copy now."""
        self._try(lambda: copies.copy(self.local, self.home))
        self.next = time.perf_counter() + COPY_SECONDS

    def copy_at_the_end(self) -> None:
        """Copy what is saved of a training that broke off, unless another machine goes on with it."""
        if not self.began:
            return
        try:
            copies.copy(self.local, self.home)
        except CourseError as error:
            print(f"Nothing newer was copied to Drive: {error.what}")

    def _try(self, action) -> None:
        try:
            action()
        except CourseError as error:
            if self.fault is None:
                print(
                    f"Nothing was copied to Drive: {error.what} Training goes on, on this machine; the copy is tried "
                    "again with a later checkpoint."
                )
            self.fault = error
        else:
            if self.fault is not None:
                print("Drive is there again, and the run's newest checkpoint is on it.")
            self.fault = None
