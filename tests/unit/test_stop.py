"""Stop: one sentence, nothing lost, and the same cell goes on with its plot."""

import contextlib
import os
import re
import shutil
import signal
from dataclasses import replace

import pytest
import tiny_run
import torch
from full_disk import files_limited_to
from transformers import TrainerCallback

from helpers import (
    adapting,
    answering,
    asked,
    best_adapter,
    earlier,
    models,
    progress,
    runs,
    training,
)
from helpers import workspace as places
from helpers.errors import CourseError
from helpers.panel import Panel
from helpers.progress import Clock, Guard, Stop
from helpers.watching import Looking, Updates

pytestmark = pytest.mark.usefixtures("use_tiny_llama")


class PressStop(TrainerCallback):
    """Sends this process what Jupyter sends for Stop, during some steps."""

    def __init__(self, *steps: int, times: int = 1):
        self.steps, self.times = list(steps), times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.steps.remove(state.global_step)
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def broken_off(trainer, rows) -> str:
    with pytest.raises(CourseError) as caught:
        training.train(trainer, tiny_run.CHOICE, rows)
    return str(caught.value)


@pytest.fixture
def rows():
    return tiny_run.conversations()


def test_stop_ends_after_the_step_with_a_run_and_the_same_cell_goes_on_to_the_same_end(
    workspace, rows, trained, capsys
):
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(PressStop(3, 16))
    run = training.train(trainer, tiny_run.CHOICE, rows)
    said = capsys.readouterr().out
    assert "Stopping after this step" in said
    assert "Training stopped after step 4 of 24: the run r4-alpha8 is saved as it is now" in said
    assert "Run this cell again to go on" in said
    assert run.record["status"] == "stopped" and (run.record["step"], run.record["steps"]) == (
        4,
        24,
    )
    assert run.record["tokens"] == round(trained.run.record["tokens"] * 4 / 24)
    run = training.train(trainer, tiny_run.CHOICE, rows)
    said = capsys.readouterr().out
    assert "Going on from checkpoint-4." in said and "after step 17 of 24" in said
    run = training.train(trainer, tiny_run.CHOICE, rows)
    said = capsys.readouterr().out
    assert "Going on from checkpoint-17." in said and "stopped" not in said
    assert run.record["status"] == "finished" and run.record["step"] == 24
    tiny_run.assert_same_adapter(run, trained.run)
    assert runs.losses(run.folder) == runs.losses(trained.run.folder)
    # One clock, one plot, one listener, however often it was stopped.
    for kind in (Clock, Guard, best_adapter.Best, Looking, Panel, Stop, Updates):
        assert sum(isinstance(one, kind) for one in trainer.callback_handler.callbacks) == 1


@pytest.fixture
def stopped(workspace, rows):
    """A run that was stopped after step 12, and its trainer."""
    fitted = tiny_run.fit(rows, callback=PressStop(11))
    assert fitted.run.record["step"] == 12
    return fitted


def test_a_stopped_run_holds_the_adapter_as_it_is_then(stopped, capsys):
    run = stopped.run
    assert adapting.holds(stopped.model, run.folder)
    checkpoint = run.folder / "checkpoint-12"
    assert str(tiny_run.adapter(run.folder)) == str(tiny_run.adapter(checkpoint))
    assert [step for step, _ in runs.losses(run.folder)] == [n + 1 for n in range(12)]
    asked.check_model(stopped.model, run)
    # Answers of the model and of the saved adapter are the same ones.
    model, tokenizer = models.load(run.folder, max_seq_length=512)
    again = answering.generate(model, tokenizer, ["Why?"], max_new_tokens=4)
    assert again == answering.generate(stopped.model, tokenizer, ["Why?"], max_new_tokens=4)


def test_the_next_notebook_takes_a_stopped_run_and_says_that_it_is_one(stopped, capsys):
    assert runs.latest() == stopped.run
    run = earlier.finished_run()
    assert run == stopped.run and run.record == runs.read(run.folder)
    assert "32 conversations, stopped after step 12 of 24." in capsys.readouterr().out
    assert not runs.is_finished(run.folder)
    assert not runs.find_all(tiny_run.CHOICE, tiny_run.conversations(), run.record["model"])


def test_in_a_new_session_a_stopped_run_goes_on_in_its_folder(stopped, trained, resume):
    run, steps = resume()
    assert run.folder == stopped.run.folder and steps == 12
    tiny_run.assert_same_adapter(run, trained.run)
    assert runs.latest() == run


def test_a_stopped_run_that_goes_on_is_nobody_s_latest_until_it_ends(stopped, rows):
    runs.write(stopped.run.folder, stopped.run.record | {"status": "started"})
    assert runs.latest() is None
    assert "went on and was interrupted" in runs.missing()


def test_a_relative_of_a_run_is_compared_as_a_whole_only(workspace, rows, trained, monkeypatch):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    changed = {"r": 2, "num_train_epochs": 1}
    prepare = training.prepare

    def pressed(trainer, rows):
        prepare(trainer, rows).add_callback(PressStop(3))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(training, "prepare", pressed)
        with pytest.raises(CourseError, match="was stopped after step 4 of 8"):
            earlier.variant(runs.latest(), rows, **changed)
    assert runs.latest().folder.name == trained.run.folder.name
    assert earlier.variant(runs.latest(), rows, **changed).record["status"] == "finished"


def test_a_relative_that_skipped_other_numbers_of_updates_is_said_to_have(
    workspace, rows, trained, capsys
):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    run = runs.latest()
    other = run.folder.with_name("other")
    shutil.copytree(run.folder, other)
    changed = replace(tiny_run.CHOICE, patience=2).to_dict()
    for skipped in (0, 3):
        runs.write(other, run.record | {"choice": changed, "skipped_updates": skipped})
        assert earlier.variant(run, rows, patience=2).folder == other
        said = capsys.readouterr().out
        assert ("different: updates skipped: 0 in r4-alpha8, 3 in other" in said) == bool(
            skipped
        ), said


@pytest.fixture
def relatives(workspace, trained):
    """A finished run; and how to make another one that `earlier.variant` with ``patience=2`` looks for."""
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    run = runs.latest()
    choice = replace(tiny_run.CHOICE, patience=2).to_dict()

    def make(name: str, **fields) -> runs.Run:
        folder = run.folder.with_name(name)
        shutil.copytree(run.folder, folder, dirs_exist_ok=True)
        runs.write(folder, run.record | {"choice": choice, "beside": True} | fields)
        return runs.Run(folder, runs.read(folder))

    return run, make


def found(run, rows) -> str:
    """Which run `earlier.variant` takes; it fails where that would be one trained now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(earlier, "load_and_train", lambda *_, **__: pytest.fail("trains anew"))
        return earlier.variant(run, rows, patience=2).folder.name


@pytest.mark.parametrize(
    "fields",
    [
        {"fault": "useless"},
        {"best": {"step": 8, "loss": 1.0, "taken": True}},
        {"load_in_4bit": False, "beside": False},
        {"number_format": "float64", "machine": {"gpu": "another"}},
        {"chat_template": "another", "versions": {}},
    ],
)
def test_a_relative_that_is_not_comparable_is_passed_over(relatives, rows, fields):
    run, make = relatives
    make("b-sound")
    make("a-newest", **fields)
    assert found(run, rows) == "b-sound"


def test_of_several_relatives_the_newest_one_is_taken(relatives, rows):
    run, make = relatives
    for name in ("b", "a", "c"):
        make(name)
    assert found(run, rows) == "c"


def test_where_this_machine_computes_otherwise_a_relative_from_here_is_not_trained_again(
    relatives, rows, capsys
):
    run, make = relatives
    make("here")
    base = run._replace(record=run.record | {"number_format": "float64", "machine": {}})
    assert found(base, rows) == "here"
    now = run.record["number_format"]
    assert f"number format is float64 in r4-alpha8, {now} in here." in capsys.readouterr().out


def test_what_else_differs_in_a_relative_is_said_in_one_line(relatives, rows, capsys):
    run, make = relatives
    make("b")
    assert found(run, rows) == "b"
    assert capsys.readouterr().out == "Using the run b.\n", "what was asked for is not said"
    make("b", versions=run.record["versions"] | {"peft": "0.1"}, heldout={"sha": "other"})
    assert found(run, rows) == "b"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[1].startswith("Not asked for, and different: ")
    assert "held-out losses cannot be compared" in said[1] and "0.1 in b" in said[1]


def test_nothing_of_a_training_that_was_broken_off_is_in_the_next_one(workspace, rows):
    """On a GPU, float16's scaler too: accelerate makes it with its first scale, 65,536; on a CPU it makes none."""
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(PressStop(1, times=2))
    broken_off(trainer, rows)
    left, accelerator = trainer.optimizer, trainer.accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with progress.afresh(trainer):
        assert trainer.optimizer is trainer.lr_scheduler is None
        assert trainer.accelerator is not accelerator and trainer.accelerator.scaler is None
    trainer.accelerator, trainer.optimizer = accelerator, left
    # The learning rate begins at 0: after one step the adapter is untrained, and may begin again.
    trainer.add_callback(PressStop(2))
    assert training.train(trainer, tiny_run.CHOICE, rows).record["step"] == 3
    assert trainer.optimizer is not left and trainer.optimizer.scaler is None


def test_stop_in_the_last_step_is_a_finished_run(workspace, rows, trained):
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(PressStop(tiny_run.STEPS - 1))
    run = training.train(trainer, tiny_run.CHOICE, rows)
    assert run.record["status"] == "finished"
    tiny_run.assert_same_adapter(run, trained.run)


def test_a_second_stop_breaks_off_at_once_and_the_newest_checkpoint_is_gone_on_from(
    workspace, rows, trained
):
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(PressStop(13, times=2))
    said = broken_off(trainer, rows)
    assert "after step 13 of 24" in said and "checkpoint-10" in said
    run = training.train(trainer, tiny_run.CHOICE, rows)
    tiny_run.assert_same_adapter(run, trained.run)
    # Also what TRL counts by itself.
    assert runs.losses(run.folder, "num_tokens") == runs.losses(trained.run.folder, "num_tokens")


def test_a_disk_that_is_full_ends_in_a_sentence_and_the_same_cell_goes_on(workspace, rows, trained):
    class Fill(TrainerCallback):
        """From step 12 on no file may grow above what a cell's small files need."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 12:
                limit.enter_context(files_limited_to(2000))

    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(Fill())
    with contextlib.ExitStack() as limit:
        said = broken_off(trainer, rows)
    assert "After step 12 of 24 nothing could be written" in said and "Make room" in said
    # What was begun takes no room away.
    assert not list((workspace / "runs").glob("*/partial*"))
    assert "checkpoint-10 of the run is saved" in said
    trainer.remove_callback(Fill)
    run = training.train(trainer, tiny_run.CHOICE, rows)
    tiny_run.assert_same_adapter(run, trained.run)


@pytest.mark.parametrize("step", [0, 3])
def test_broken_off_before_the_first_checkpoint_it_says_how_to_begin_anew(
    workspace, rows, trained, step
):
    model, tokenizer, trainer = tiny_run.build(rows)
    trainer.add_callback(PressStop(step, times=2))
    said = broken_off(trainer, rows)
    assert "no checkpoint was saved yet" in said and "adapting.add_adapter" in said
    if step:
        # The adapter in memory is half-trained: going on from it would be another run.
        assert "has been trained already" in broken_off(trainer, rows)
        model = adapting.add_adapter(model, tiny_run.CHOICE)
        folder = runs.folder_for(tiny_run.CHOICE, rows)
        trainer = training.build_trainer(model, tokenizer, rows, tiny_run.CHOICE, folder)
    run = training.train(trainer, tiny_run.CHOICE, rows)
    assert run.folder.name == "r4-alpha8"
    tiny_run.assert_same_adapter(run, trained.run)


class Fill(TrainerCallback):
    """What PyTorch raises where a GPU's memory is full; a CPU never does."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.36 GiB.")


def test_a_step_that_does_not_fit_says_what_to_choose_and_nothing_saved_is_lost(
    workspace, rows, trained
):
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(Fill())
    said = broken_off(trainer, rows)
    assert "Step 13 of 24 does not fit" in said and "checkpoint-10" in said
    assert "smaller per_device_train_batch_size" in said and "Restart the session" in said
    trainer.remove_callback(Fill)
    run = training.train(trainer, tiny_run.CHOICE, rows)
    tiny_run.assert_same_adapter(run, trained.run)


def test_outside_a_training_stop_means_what_it_meant_before(workspace, rows):
    before = signal.getsignal(signal.SIGINT)
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(PressStop(3))
    assert training.train(trainer, tiny_run.CHOICE, rows).record["status"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


# ------------------------------------------------------------------------------------ in a real kernel
SET_UP = """
import sys; sys.path[:0] = {paths}
import time, tiny_run
from transformers import TrainerCallback
from helpers import training
class Slow(TrainerCallback):
    def on_step_begin(self, *_, **__): time.sleep(0.1)
rows = tiny_run.conversations()
_, _, trainer = tiny_run.build(rows)
trainer.add_callback(Slow())
"""
TRAIN = "run = training.train(trainer, tiny_run.CHOICE, rows)"
# What the plot of the training now drew.
POINTS = """
from helpers.panel import Panel
(plot,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, Panel)]
print(*[step for step, _ in plot.points])
"""


@pytest.fixture
def kernel(workspace):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(client, source, on_message=lambda message: None):
    """Execute a cell; every message that the front end gets."""
    asked, messages = client.execute(source), []
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return messages
        messages.append(message)
        on_message(message)


def of_type(messages, kind):
    return [message["content"] for message in messages if message["msg_type"] == kind]


@pytest.mark.slow
def test_in_a_notebook_stop_is_a_sentence_and_running_the_cell_again_draws_a_new_plot(kernel):
    manager, client = kernel
    paths = [str(places.KIT), os.path.dirname(tiny_run.__file__)]
    assert not of_type(run_cell(client, SET_UP.format(paths=paths)), "error")
    pressed = []

    def press_stop(message):
        if message["msg_type"] == "display_data" and not pressed:
            pressed.append(manager.interrupt_kernel())

    first = run_cell(client, TRAIN, press_stop)
    assert not of_type(first, "error")
    said = "".join(message["text"] for message in of_type(first, "stream"))
    (done,) = map(int, re.findall(r"Training stopped after step (\d+) of 24", said))

    second = run_cell(client, TRAIN)
    assert not of_type(second, "error")
    (shown,) = of_type(second, "display_data")
    updates = of_type(second, "update_display_data")
    (old,) = of_type(first, "display_data")
    here = shown["transient"]["display_id"]
    assert here != old["transient"]["display_id"], "the first cell's picture is not this cell's"
    assert {update["transient"]["display_id"] for update in updates} == {here}
    assert len(updates) <= tiny_run.STEPS - done
    assert "step 24 of 24" in updates[-1]["metadata"]["image/png"]["alt"]
    (points,) = of_type(run_cell(client, POINTS), "stream")
    assert points["text"].split() == [str(step + 1) for step in range(tiny_run.STEPS)]


@pytest.mark.parametrize("times", [1, 3])
def test_stop_while_the_adapter_is_saved_waits_until_it_is(
    workspace, rows, trained, monkeypatch, times, capsys
):
    _, _, trainer = tiny_run.build(rows)
    save = trainer.save_model

    def pressed(folder, **options):
        for _ in range(0 if options else times):  # at the end, not for a checkpoint
            os.kill(os.getpid(), signal.SIGINT)
        save(folder, **options)

    monkeypatch.setattr(trainer, "save_model", pressed)
    run = training.train(trainer, tiny_run.CHOICE, rows)
    assert runs.latest().folder == run.folder and run.record["status"] == "finished"
    assert capsys.readouterr().out.count("Stop has no effect") == times
    tiny_run.assert_same_adapter(run, trained.run)


def test_where_no_checkpoint_fits_on_the_disk_it_says_that_nothing_is_saved(workspace, rows):
    class Fill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            limit.enter_context(files_limited_to(2000))

    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(Fill())
    with contextlib.ExitStack() as limit:
        said = broken_off(trainer, rows)
    assert "Nothing is saved yet" in said and "goes on from what is saved" not in said


@pytest.mark.parametrize(
    "text", ["No space left on device (os error 28)", "Read-only file system (os error 30)"]
)
def test_a_full_disk_is_known_in_the_words_of_rust_too(workspace, rows, text):
    """As the tokenizers library puts it, in an exception of no kind."""
    _, _, trainer = tiny_run.build(rows)
    with pytest.raises(CourseError, match="Make room"), progress.writing(trainer, workspace):
        raise Exception(text)  # noqa: TRY002
