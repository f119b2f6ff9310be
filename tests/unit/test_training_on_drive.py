"""Training with the workspace on Drive: on this machine's disk, with copies on Drive that another machine goes on from."""

import contextlib
import os
import shutil
import signal

import course_on_drive
import forked
import pytest
import tiny_run
from transformers import TrainerCallback

from helpers import copier, copies, earlier, runs
from helpers import workspace as places

pytestmark = pytest.mark.usefixtures("use_tiny_llama")


def killed_with(drive) -> None:
    """What a machine does that goes away in the middle of a training, with Drive mounted there."""
    places.DRIVE, copier.COPY_SECONDS = drive, 0
    tiny_run.fit_and_break_off()


class AwayAtFirst(TrainerCallback):
    """Drive is not there when a training begins, and is before the first checkpoint; after step 8 comes kill -9."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.away = contextlib.ExitStack()
        self.away.enter_context(course_on_drive.away())

    def on_step_end(self, args, state, control, **kwargs):
        self.away.close()
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_soon_with(drive) -> None:
    """A machine that goes away after some steps of a training that began without Drive; the time between two copies
    is the course's own."""
    places.DRIVE = drive
    tiny_run.fit(callback=AwayAtFirst())


@pytest.fixture
def drive(tmp_path, monkeypatch):
    with course_on_drive.mounted(monkeypatch, tmp_path) as folder:
        yield folder


def test_a_run_that_was_killed_goes_on_on_another_machine_and_ends_bit_for_bit_the_same(
    drive, trained, resume, capsys
):
    process = forked.Process(killed_with, drive)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    (home,) = places.path("runs").iterdir()
    assert {p.name for p in home.iterdir()} >= {"kept-a", "kept-b", "run.json"}
    assert not list(home.glob("checkpoint-*"))
    shutil.rmtree(os.environ["COURSE_LOCAL"])
    run, steps = resume()
    assert "copy of step 20" in capsys.readouterr().out
    assert run.folder == home and steps == tiny_run.STEPS - 20
    assert runs.is_finished(home) and runs.latest() == run
    assert not copies.place(home).exists() and not (home / "kept-a").exists()
    tiny_run.assert_same_adapter(run, trained.run)
    assert runs.losses(home) == runs.losses(trained.run.folder)


def test_a_short_run_that_began_without_drive_goes_on_from_its_first_checkpoint(
    drive, trained, resume, capsys
):
    process = forked.Process(killed_soon_with, drive)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert said.count("Nothing was copied to Drive") == 1 and "Drive is there again" in said
    shutil.rmtree(os.environ["COURSE_LOCAL"])
    run, steps = resume()
    assert "copy of step 5" in capsys.readouterr().out
    assert run.folder.name == "r4-alpha8" and steps == tiny_run.STEPS - 5
    tiny_run.assert_same_adapter(run, trained.run)


def test_a_drive_that_vanishes_in_the_middle_leaves_the_run_on_this_machine(
    drive, trained, capsys, monkeypatch
):
    monkeypatch.setattr(copier, "COPY_SECONDS", 0)

    class Vanish(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 12:
                gone.enter_context(course_on_drive.away())

    with contextlib.ExitStack() as gone:
        fitted = tiny_run.fit(callback=Vanish())
        said = capsys.readouterr().out
        assert said.count("Nothing was copied to Drive") == 1 and "stays on this machine" in said
        assert fitted.run.folder.is_relative_to(places.local()) and runs.is_finished(
            fitted.run.folder
        )
        tiny_run.assert_same_adapter(fitted.run, trained.run)
        assert not drive.exists()
        assert earlier.finished_run() == fitted.run
    (home,) = places.path("runs").iterdir()
    assert runs.read(home)["status"] == "started" and copies._listed(home / "kept-a")["step"]
    again = tiny_run.training.train(fitted.trainer, tiny_run.CHOICE, tiny_run.conversations())
    assert again.folder == home == runs.latest().folder and runs.is_finished(home)
    tiny_run.assert_same_adapter(again, trained.run)


def test_a_stopped_run_is_on_drive_and_goes_on(drive, resume, trained):
    class Press(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 12:
                signal.raise_signal(signal.SIGINT)

    run = tiny_run.fit(callback=Press()).run
    assert run.record["status"] == "stopped" and places.is_on_drive(run.folder)
    assert runs.latest() == run
    shutil.rmtree(os.environ["COURSE_LOCAL"])
    run, steps = resume()
    assert steps == tiny_run.STEPS - 12 and runs.is_finished(run.folder)
    tiny_run.assert_same_adapter(run, trained.run)
