"""Train the tiny Llama as notebook 05 trains its model; or the same, killed or waiting in the middle."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers import adapting, data, homework, models, runs, selection, training
from helpers.choice import Choice

CHOICE = Choice(
    r=4, lora_alpha=8, max_length=512, rows_per_update=4, num_train_epochs=3, learning_rate=0.01
)
# 32 rows, 4 at a time, 3 times: 24 steps, with checkpoints after 5, 10, 15, 20 and 24.
ROWS, STEPS, KILLED_AFTER = 32, 24, 22


class Fitted(NamedTuple):
    model: object
    tokenizer: object
    trainer: object
    run: runs.Run


def conversations(limit: int = ROWS):
    """The shortest of the course's conversations: the tiny Llama's tokens are short, its memory too."""
    return selection.select(
        data.load_conversations(data.OUR_POOL), homework.simple_key, limit=limit
    )


def build(rows=None, choice: Choice = CHOICE, folder: Path | None = None, template=None):
    """Model, tokenizer and trainer, ready to train."""
    rows = conversations() if rows is None else rows
    model, tokenizer = models.load(max_seq_length=choice.max_length, template=template)
    model = adapting.add_adapter(model, choice)
    folder = folder or runs.folder_for(choice, rows)
    return model, tokenizer, training.build_trainer(model, tokenizer, rows, choice, folder)


def fit(rows=None, choice: Choice = CHOICE, callback=None) -> Fitted:
    """A whole training, or the rest of an interrupted one."""
    rows = conversations() if rows is None else rows
    model, tokenizer, trainer = build(rows, choice)
    if callback is not None:
        trainer.add_callback(callback)
    return Fitted(model, tokenizer, trainer, training.train(trainer, choice, rows))


def adapter(folder: Path) -> dict:
    """The tensors that a run or a checkpoint saved."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def assert_same_adapter(run: runs.Run, expected: runs.Run) -> None:
    """Two runs saved the same numbers, bit for bit."""
    found, whole = adapter(run.folder), adapter(expected.folder)
    assert found.keys() == whole.keys()
    assert all((found[name] == whole[name]).all() for name in whole)


def fit_and_break_off(wait: bool = False) -> None:
    """A training whose process gets kill -9 after step 22, or waits there until a test kills it."""
    from transformers import TrainerCallback

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == KILLED_AFTER:
                if wait:
                    print("waiting", flush=True)
                    time.sleep(600)
                os.kill(os.getpid(), signal.SIGKILL)

    fit(callback=Break())
