"""Two notebooks and one run: the second is refused by name while the first lives, and takes over when it is dead."""

import json
import os
import signal
import threading
import time

import forked
import pytest
import tiny_run

from helpers import claims, runs, training
from helpers.errors import CourseError

pytestmark = pytest.mark.usefixtures("use_tiny_llama")


@pytest.fixture
def first(workspace):
    """Another process that is training the run, and stands at step 22."""
    process = forked.Process(tiny_run.fit_and_break_off, True)
    while "waiting" not in process.said().splitlines():
        assert process.poll() is None, process.said()
        time.sleep(0.05)
    yield process
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_second_notebook_is_refused_while_the_first_trains_and_goes_on_when_it_is_dead(
    first, workspace, trained, capsys
):
    rows = tiny_run.conversations()
    folder = workspace / "runs" / trained.run.folder.name
    before = (folder / "run.json").read_bytes()
    with pytest.raises(CourseError) as caught:
        runs.folder_for(tiny_run.CHOICE, rows)
    said = str(caught.value)
    assert f"The run {folder.name} is being trained already, by process {first.pid}" in said
    assert "on this machine, since 20" in said and "alive" in said
    # A notebook that had its folder before the first began is refused too.
    _, _, trainer = tiny_run.build(rows, folder=folder)
    with pytest.raises(CourseError, match=f"process {first.pid}"):
        training.train(trainer, tiny_run.CHOICE, rows)
    assert (folder / "run.json").read_bytes() == before
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (folder / claims.NAME).exists(), "left by a dead process"
    capsys.readouterr()
    run = training.train(trainer, tiny_run.CHOICE, rows)
    assert "Going on from checkpoint-20." in capsys.readouterr().out
    tiny_run.assert_same_adapter(run, trained.run)
    assert not (folder / claims.NAME).exists()


@pytest.fixture
def folder(workspace):
    made = workspace / "runs" / "r4-alpha8"
    made.mkdir(parents=True)
    return made


def note(folder, **changes) -> None:
    """A lock as another process would write it."""
    (folder / claims.NAME).unlink(missing_ok=True)
    with claims.claim(folder):
        mine = json.loads((folder / claims.NAME).read_text())
    (folder / claims.NAME).write_text(json.dumps(mine | changes))


def test_a_folder_is_free_again_after_a_training_and_after_its_failure(folder):
    with claims.claim(folder):
        assert claims.holder(folder) is None, "this process itself is no other"
        assert (folder / claims.NAME).exists()
    with pytest.raises(ZeroDivisionError), claims.claim(folder):
        _ = 1 / 0
    assert not list(folder.iterdir())


def test_a_new_process_with_the_number_of_a_dead_one_does_not_count_as_it(folder):
    parent = os.getppid()
    note(folder, pid=parent, started=1.0)
    assert claims.holder(folder) is None, "the noted one began in 1970"
    note(folder, pid=parent, started=claims._started(parent))
    assert claims.holder(folder)["pid"] == parent


def test_another_machine_s_process_counts_as_alive_while_it_renews_its_note(folder):
    note(folder, machine="colab 1", host="colab", pid=77, beat=time.time() - 60)
    with pytest.raises(CourseError) as caught:
        claims.refuse(folder)
    said = str(caught.value)
    assert "process 77 on colab" in said and "wrote 60 seconds ago" in said
    assert "If that machine is gone, wait 10 minutes first" in said
    note(folder, machine="colab 1", host="colab", beat=time.time() - claims.STALE_SECONDS - 1)
    with claims.claim(folder):
        pass
    assert not list(folder.iterdir())


def test_the_note_is_renewed_while_a_training_lasts(folder, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    with claims.claim(folder):
        first = json.loads((folder / claims.NAME).read_text())["beat"]
        until = time.time() + 20
        while json.loads((folder / claims.NAME).read_text())["beat"] == first:
            assert time.time() < until
            time.sleep(0.02)


def test_a_training_that_another_machine_took_over_writes_nothing_more(
    workspace, monkeypatch, capsys
):
    """This machine was asleep for longer than its note counts."""
    from transformers import TrainerCallback

    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    rows = tiny_run.conversations(8)
    _, _, trainer = tiny_run.build(rows)
    folder = workspace / "runs" / "r4-alpha8"

    class TakeOver(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                theirs = json.loads((folder / claims.NAME).read_text())
                theirs |= {"machine": "colab 1", "host": "colab", "beat": time.time()}
                # More than once: this machine may be in the middle of renewing its own note.
                for _ in range(10):
                    (folder / claims.NAME).write_text(json.dumps(theirs))
                    time.sleep(0.05)

    trainer.add_callback(TakeOver())
    with pytest.raises(CourseError, match="another machine goes on with this run"):
        training.train(trainer, tiny_run.CHOICE, rows)
    assert claims.holder(folder)["host"] == "colab", "the other's note stays"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}', "\x00\x00"])
def test_a_damaged_note_keeps_nobody_out(folder, content):
    (folder / claims.NAME).write_text(content)
    with claims.claim(folder):
        pass
    assert not list(folder.iterdir())


def test_of_two_that_begin_at_once_at_most_one_trains(folder, monkeypatch):
    """Two threads that pass for two machines."""
    machine = threading.local()
    monkeypatch.setattr(claims, "_machine", lambda: machine.name)
    entered, refused = [], []
    ready, leave = threading.Barrier(2), threading.Barrier(2)

    def attempt(name):
        machine.name = name
        ready.wait()
        try:
            with claims.claim(folder):
                entered.append(name)
                leave.wait(5)
        except CourseError:
            refused.append(name)
            leave.wait(5)

    threads = [threading.Thread(target=attempt, args=(f"machine {i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) <= 1 and len(entered) + len(refused) == 2


def test_stop_in_the_moment_of_beginning_leaves_the_folder_free(folder, monkeypatch):
    def stop(_seconds):
        assert (folder / claims.NAME).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(claims.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt), claims.claim(folder):
        raise AssertionError("it never begins")
    assert not (folder / claims.NAME).exists()


def test_an_interrupted_run_is_found_behind_a_number_that_is_free_again(interrupted, workspace):
    rows = tiny_run.conversations()
    later = interrupted.with_name(f"{interrupted.name}-3")
    interrupted.rename(later)
    assert runs.folder_for(tiny_run.CHOICE, rows) == later
    interrupted.mkdir()  # made for a run, and empty
    assert runs.folder_for(tiny_run.CHOICE, rows) == later
    interrupted.with_name(f"{interrupted.name}5").mkdir()  # of another alpha
    assert runs.folder_for(tiny_run.CHOICE, rows.select(range(8))) == interrupted
