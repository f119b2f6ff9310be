"""Copies on Drive: one is always whole, a Drive that is full or gone ends no training, and a run comes back from it."""

import json
import os
import shutil
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import course_on_drive
import drives
import pytest
import tiny_run
from course_on_drive import put_run
from full_disk import files_limited_to
from hypothesis import given
from hypothesis import strategies as st

from helpers import asked, claims, copier, copies, earlier, manifests, runs
from helpers import workspace as places
from helpers.errors import CourseError


def refusal(action, *arguments) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments)
    return str(caught.value)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    with course_on_drive.mounted(monkeypatch, tmp_path) as folder:
        yield folder


@pytest.fixture
def home(drive):
    return places.make(places.path("runs", "r4-alpha8"))


@pytest.fixture
def local(killed, home):
    """A run in training, at step 20: its checkpoints of steps 15 and 20 are on this machine, and nothing on Drive."""
    return put_run(killed, home, 15, 20)


@pytest.fixture
def copied(local, home, killed):
    """Both checkpoints are on Drive, step 15's in one folder and step 20's in the other."""
    later = local.with_name("later")
    (local / "checkpoint-20").rename(later)
    copies.announce(local, home)
    assert copies.copy(local, home) == 15
    later.rename(local / "checkpoint-20")
    assert copies.copy(local, home) == 20
    return home


def finish_training(local: Path, trained) -> None:
    """What the end of a training leaves on this machine."""
    shutil.copytree(trained.run.folder, local, dirs_exist_ok=True)
    (local / "best").mkdir(exist_ok=True)
    (local / "best" / "best.json").write_text('{"step": 20, "loss": 2.0}')


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def in_a_process(action, kill_after: float | None = None) -> int:
    """Do something in another process, killed after so many seconds; with which signal it ended, negative, or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside PyTorch's threads
        child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ---------------------------------------------------------------------------------------------- where
def test_a_run_is_trained_in_its_own_folder_unless_that_is_on_drive(workspace, drive, monkeypatch):
    home = places.path("runs", "r4-alpha8")
    assert (
        copies.place(home).is_relative_to(places.local()) and copies.place(home).name == home.name
    )
    monkeypatch.setenv("COURSE_WORKSPACE", str(drive / "another"))
    assert copies.place(places.path("runs", "r4-alpha8")) != copies.place(home)
    monkeypatch.setenv("COURSE_WORKSPACE", str(workspace))
    home = places.make(places.path("runs", "r4-alpha8"))
    assert copies.place(home) == copies.bring(home) == copies.finish(home, home) == home


# ---------------------------------------------------------------------------------------------- copy
def test_the_newest_checkpoint_is_copied_in_turn_into_two_folders_and_nothing_is_deleted(
    copied, local
):
    inodes = {f: f.stat().st_ino for f in copied.rglob("kept-*/**/*")}
    listed = [json.loads((copied / slot / copies.LIST).read_text()) for slot in copies.SLOTS]
    assert [(one["count"], one["step"]) for one in listed] == [(1, 15), (2, 20)]
    assert copies.copy(local, copied) == 20
    assert {f: f.stat().st_ino for f in copied.rglob("kept-*/**/*")} == inodes
    assert json.loads((copied / "kept-a" / copies.LIST).read_text())["step"] == 20
    assert contents(copied / "kept-a" / "checkpoint") == contents(local / "checkpoint-20")
    assert not [
        f for f in copied.rglob("*") if "model.safetensors" in f.name and "kept" not in str(f)
    ]


def test_without_a_checkpoint_nothing_is_copied(killed, home):
    assert copies.copy(put_run(killed, home), home) is None
    assert not any(home.iterdir())


def test_a_file_that_is_there_by_the_list_is_not_written_again(copied, local, monkeypatch):
    copies.copy(local, copied)  # both are of step 20 now
    written, over = [], copies._over
    monkeypatch.setattr(copies, "_over", lambda to, new: (written.append(to.name), over(to, new)))
    copies.copy(local, copied)
    assert written == [copies.LIST, copies.LIST]


def test_what_came_back_otherwise_than_it_was_written_is_no_copy(copied, local, monkeypatch):
    over = copies._over

    def one_bit(target, new):
        over(target, new)
        if target.name == "optimizer.pt":
            content = bytearray(target.read_bytes())
            content[len(content) // 2] ^= 1
            target.write_bytes(content)

    monkeypatch.setattr(copies, "_over", one_bit)
    assert "optimizer.pt came back" in refusal(copies.copy, local, copied)
    assert copies._listed(copied / "kept-a")["count"] == 0
    monkeypatch.undo()
    assert json.loads((copied / "kept-b" / copies.LIST).read_text())["step"] == 20


def test_kill_9_at_every_write_of_a_copy_leaves_a_whole_one(copied, local, monkeypatch):
    """Before, in the middle of and after each file that is written."""
    state, over, ended = {"left": 0}, copies._over, 0

    def dies(target, new):
        state["left"] -= 1
        if state["left"] == 0:
            content = new if isinstance(new, bytes) else new.read()
            with target.open("r+b" if target.exists() else "wb") as old:
                old.write(content[: len(content) // 2])
                old.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        over(target, new)

    monkeypatch.setattr(copies, "_over", dies)
    before = contents(copied / "kept-b")
    for write in range(1, 40):
        (copied / "kept-a" / copies.LIST).write_text("{}")  # so that every file is written
        state["left"] = write
        if in_a_process(lambda: copies.copy(local, copied)) == 0:
            break
        ended += 1
        assert contents(copied / "kept-b") == before
        assert copies._listed(copied / "kept-a")["count"] == 0
    assert ended >= 15 and copies._listed(copied / "kept-a")["step"] == 20


def test_kill_9_at_any_moment_of_a_copy_leaves_a_whole_one(copied, local):
    def copy_again_and_again():
        while True:
            copies.copy(local, copied)

    for wait in (0.05, 0.051, 0.053, 0.057, 0.065, 0.08):
        assert in_a_process(copy_again_and_again, kill_after=wait) == -signal.SIGKILL
        shutil.rmtree(local)
        assert copies.bring(copied) == local
        assert runs.newest_checkpoint(local).name == "checkpoint-20"


def test_another_machine_that_goes_on_with_the_run_is_not_written_over(copied, local):
    note = claims._this_process() | {"machine": "another", "host": "colab-2", "since": "now"}
    (copied / claims.NAME).write_text(json.dumps(note | {"beat": time.time()}))
    before = contents(copied)
    assert "colab-2" in refusal(copies.copy, local, copied)
    assert contents(copied) == before


# ------------------------------------------------------------------------------------------- full, gone
def test_a_drive_without_room_is_said_with_the_numbers_before_anything_is_written(
    killed, tmp_path, monkeypatch
):
    with course_on_drive.mounted(monkeypatch, tmp_path, mib=1):
        home = places.make(places.path("runs", "r4-alpha8"))
        message = refusal(copies.copy, put_run(killed, home, 20), home)
        assert "MB free" in message and "trash" in message
        assert not any(home.iterdir())


def test_a_write_that_fails_half_way_leaves_the_copy_before(copied, local):
    before = contents(copied / "kept-b")
    with files_limited_to(2000):
        (copied / "kept-a" / copies.LIST).write_text("{}")
        assert "cannot be written to" in refusal(copies.copy, local, copied)
    assert contents(copied / "kept-b") == before
    assert copies._listed(copied / "kept-a")["count"] == 0
    assert copies.copy(local, copied) == 20


def test_on_a_drive_that_became_a_plain_folder_nothing_is_made(killed, tmp_path, monkeypatch):
    """As after its connection was lost, when a program made the folder again on this machine's disk."""
    monkeypatch.setenv("COURSE_LOCAL", str(tmp_path / "local"))
    monkeypatch.setattr(places, "DRIVE", tmp_path / "drive" / "MyDrive")
    home = places.DRIVE / "lora-course" / "runs" / "r4-alpha8"
    monkeypatch.setenv("COURSE_WORKSPACE", str(places.DRIVE / "lora-course"))
    local = put_run(killed, home, 20)
    assert "Drive is not mounted" in refusal(copies.copy, local, home)
    assert not places.DRIVE.parent.exists()
    places.DRIVE.mkdir(parents=True)
    assert f"move the folder {places.DRIVE.parent} away" in refusal(copies.copy, local, home)
    assert "not mounted" in refusal(copies.announce, local, home)
    assert not any(places.DRIVE.iterdir())


@pytest.mark.parametrize("end", ["unmounted", "disconnected"])
def test_a_drive_that_goes_away_in_the_middle_is_said_once_and_the_run_stays(
    killed, trained, tmp_path, monkeypatch, capsys, end
):
    with course_on_drive.mounted(monkeypatch, tmp_path, mib=20):
        home = places.make(places.path("runs", "r4-alpha8"))
        local = put_run(killed, home, 20)

        callback = copier.Copier(local, home)
        callback.on_train_begin(None, None, None)
        callback.copy()
        assert copies._listed(home / "kept-a")["step"] == 20
        drives.unmount(tmp_path / "drive")
        if end == "disconnected":
            drives.lose_connection(tmp_path / "drive")
            with pytest.raises(OSError, match="not connected"):
                os.listdir(tmp_path / "drive")
        for _ in range(3):
            callback.copy()
        runs.write(local, runs.read(local))  # what a training goes on to write
        said = capsys.readouterr().out
        assert said.count("Nothing was copied to Drive") == 1 and "Training goes on" in said
        finish_training(local, trained)
        assert copies.finish(local, home) == local
        assert "stays on this machine" in capsys.readouterr().out
        assert runs.is_finished(local)
        drives.unmount(tmp_path / "drive")
        assert not any((tmp_path / "drive").iterdir())


def test_the_first_copy_comes_at_once_and_then_one_every_five_minutes_also_where_they_take_long(
    monkeypatch,
):
    clock, made = SimpleNamespace(now=1000.0), []
    monkeypatch.setattr(copier.time, "perf_counter", lambda: clock.now)

    def slow(local, home):
        made.append(clock.now)
        clock.now += 9

    monkeypatch.setattr(copies, "copy", slow)
    callback = copier.Copier(Path("a"), Path("b"))
    while clock.now < 1000 + 1800:
        clock.now += 10
        callback.on_save(None, None, None)
    # Of a copy's end, and asked every 10 seconds.
    assert [round(one - 1000) for one in made] == [10, 319, 628, 937, 1246, 1555]


def test_a_run_that_began_while_drive_was_away_is_found_again_by_its_first_copy(
    home, local, use_tiny_llama, capsys
):
    callback = copier.Copier(local, home)
    with course_on_drive.away():
        callback.on_train_begin(None, None, None)
    assert not any(home.iterdir())
    callback.on_save(None, None, None)
    said = capsys.readouterr().out
    assert said.count("Nothing was copied") == 1 and "with a later checkpoint" in said
    shutil.rmtree(places.local())
    assert runs.folder_for(tiny_run.CHOICE, tiny_run.conversations()) == home
    assert places.read_json(home / "conversations.json") == tiny_run.conversations().to_list()
    assert runs.newest_checkpoint(copies.bring(home)).name == "checkpoint-20"


@pytest.mark.parametrize(
    ("damage", "step"), [("run.json cut off", 0), ("no conversations.json", 20), ("stopped", 12)]
)
def test_a_copy_mends_what_says_which_run_it_is(copied, local, damage, step):
    expected = runs.read(copied) | {"step": step}
    if damage == "stopped":  # on another machine, after step 12; that it goes on was not said
        runs.write(copied, expected | {"status": "stopped"})
    elif damage == "run.json cut off":
        (copied / "run.json").write_text("{")
    else:
        (copied / "conversations.json").unlink()
    copies.copy(local, copied)
    assert runs.read(copied) == expected
    assert (copied / "conversations.json").is_file()


def test_a_run_that_another_machine_finished_is_not_called_unfinished_by_a_copy(copied, local):
    runs.write(copied, runs.read(copied) | {"status": "finished"})
    copies.copy(local, copied)
    assert runs.read(copied)["status"] == "finished"


def test_a_stopped_run_of_which_drive_took_only_the_checkpoint_is_still_found_here(
    home, local, trained
):
    shutil.copy(trained.run.folder / "adapter_model.safetensors", local)
    runs.write(local, runs.read(local) | {"status": "stopped", "step": 20})
    assert copies.copy(local, home) == 20
    assert runs.read(home)["status"] == "started"
    assert [run.folder for run in earlier._only_here()] == [local]


def test_drive_that_is_back_gets_the_copy_and_it_is_said(copied, local, monkeypatch, capsys):
    callback = copier.Copier(local, copied)
    with course_on_drive.away():
        callback.copy()
    callback.copy()
    callback.copy()
    said = capsys.readouterr().out
    assert said.count("Nothing was copied") == 1 and said.count("Drive is there again") == 1


# -------------------------------------------------------------------------------------------- bring
def test_a_new_machine_gets_the_newest_copy_with_all_that_belongs_to_it(copied, local, capsys):
    (local / "best").mkdir(exist_ok=True)
    (local / "best" / "best.json").write_text('{"step": 10, "loss": 2.5}')
    copies.copy(local, copied)
    before = contents(local)
    shutil.rmtree(places.local())
    assert copies.bring(copied) == local
    assert "copy of step 20" in capsys.readouterr().out
    found = contents(local)
    # The rest is the older checkpoint, and a model card that Trainer writes anew.
    assert {n.split("/")[0] for n in before.keys() - found.keys()} == {"checkpoint-15", "README.md"}
    assert found == {name: before[name] for name in found}


@pytest.mark.parametrize("share", [0, 0.5, "bit", "gone"])
@pytest.mark.parametrize("name", ["checkpoint/optimizer.pt", "run.json"])
def test_a_damaged_copy_is_passed_over_for_the_one_before(copied, local, capsys, name, share):
    file = copied / "kept-b" / name
    content = bytearray(file.read_bytes())
    if share == "bit":
        content[len(content) // 2] ^= 1
    file.unlink() if share == "gone" else file.write_bytes(
        content if share == "bit" else content[: int(len(content) * share)]
    )
    shutil.rmtree(places.local())
    copies.bring(copied)
    said = capsys.readouterr().out
    assert "copy of step 20 on Drive is passed over" in said and "copy of step 15" in said
    assert runs.newest_checkpoint(local).name == "checkpoint-15"
    assert not (local / copies.PARTIAL).exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"count": 9, "step": 30}', '{"count": true, "files": {}}']
)
def test_a_damaged_list_makes_no_copy(copied, local, text):
    (copied / "kept-b" / copies.LIST).write_text(text)
    shutil.rmtree(places.local())
    copies.bring(copied)
    assert runs.newest_checkpoint(local).name == "checkpoint-15"


def test_a_list_that_names_files_elsewhere_is_none(copied, local):
    listed = json.loads((copied / "kept-b" / copies.LIST).read_text())
    listed["files"]["../../choice.json"] = listed["files"]["run.json"]
    (copied / "kept-b" / copies.LIST).write_text(json.dumps(listed))
    shutil.rmtree(places.local())
    copies.bring(copied)
    assert runs.newest_checkpoint(local).name == "checkpoint-15"


def test_what_is_on_this_machine_and_further_stays(copied, local, capsys):
    before = contents(local)
    (copied / "kept-b" / copies.LIST).write_text("{}")
    assert copies.bring(copied) == local
    assert contents(local) == before and capsys.readouterr().out == ""


def test_another_run_of_this_name_is_not_gone_on_with(copied, local, capsys):
    runs.write(local, runs.read(local) | {"data": "other rows"})
    assert copies.bring(copied) == local
    assert "Another run" in capsys.readouterr().out
    assert runs.read(local) == runs.read(copied)
    (aside,) = (p for p in local.parent.iterdir() if p.name.startswith("another-1"))
    assert (aside / "checkpoint-20").is_dir()


def test_a_run_that_a_zip_or_an_older_version_put_on_drive_goes_on(killed, home, local):
    shutil.rmtree(home)
    shutil.copytree(local, home)
    (home / "best").mkdir(exist_ok=True)
    (home / "best" / "best.json").write_text('{"step": 10, "loss": 2.5}')
    shutil.rmtree(places.local())
    assert copies.bring(home) == local
    assert runs.newest_checkpoint(local).name == "checkpoint-20"
    assert contents(local / "best") == contents(home / "best")
    assert (home / "checkpoint-20").is_dir()


# -------------------------------------------------------------------------------------------- finish
def test_a_finished_run_goes_to_drive_whole_and_leaves_no_checkpoints_anywhere(
    copied, local, trained, capsys
):
    finish_training(local, trained)
    adapter = contents(local)["adapter_model.safetensors"]
    assert copies.finish(local, copied) == copied
    assert runs.is_finished(copied) and runs.losses(copied) == runs.losses(trained.run.folder)
    assert (copied / "best" / "best.json").is_file() and (copied / "tokenizer.json").is_file()
    assert contents(copied)["adapter_model.safetensors"] == adapter
    assert not [p for p in copied.iterdir() if p.name.startswith(("kept", "checkpoint"))]
    assert not local.exists() and capsys.readouterr().out == ""
    assert copies.bring(copied) == copied


def test_copies_are_emptied_before_they_are_removed(copied, local, trained, monkeypatch):
    sizes, rmtree = [], shutil.rmtree

    def look(folder, **more):
        if folder.name in copies.SLOTS:
            sizes.extend(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        rmtree(folder, **more)

    finish_training(local, trained)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", look)
        copies.finish(local, copied)
    assert len(sizes) > 20 and not any(sizes)


def test_a_stopped_run_takes_its_newest_checkpoint_to_drive_and_stays_to_go_on(
    home, local, trained
):
    record = runs.read(local) | {"status": "stopped"}
    shutil.copy(trained.run.folder / "adapter_model.safetensors", local)
    runs.write(local, record)
    assert copies.finish(local, home) == home
    assert runs.read(home)["status"] == "stopped" and (home / "adapter_model.safetensors").is_file()
    assert copies._listed(home / "kept-a")["step"] == 20
    before = contents(local)
    assert copies.bring(home) == local and contents(local) == before


def test_kill_9_while_a_run_goes_home_leaves_it_here_or_there(copied, local, trained, monkeypatch):
    finish_training(local, trained)
    over, state = copies._over, {"left": 0}

    def dies(target, new):
        state["left"] -= 1
        if state["left"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        over(target, new)

    monkeypatch.setattr(copies, "_over", dies)
    for write in (1, 2, 8, 12, 20, 30):
        state["left"] = write
        in_a_process(lambda: copies.finish(local, copied))
        assert runs.is_finished(local) or runs.is_finished(copied)
    state["left"] = 0
    assert copies.bring(copied) == copied and runs.is_finished(copied)
    assert not local.exists()


def test_a_run_that_ended_while_drive_was_away_goes_there_the_next_time(copied, local, trained):
    finish_training(local, trained)
    with course_on_drive.away():
        assert copies.finish(local, copied) == local
    assert copies.bring(copied) == copied
    assert runs.is_finished(copied) and not local.exists()


# ------------------------------------------------------------------------------------ on this machine only
def test_a_run_that_ended_while_drive_was_away_is_what_the_next_notebook_takes(
    copied, local, trained, use_tiny_llama, capsys
):
    finish_training(local, trained)
    for _ in range(2):
        with course_on_drive.away():
            assert earlier.finished_run() == runs.Run(local, trained.run.record)
            said = capsys.readouterr().out
            assert said.count("stays on this machine only") == 1 and "Drive is not mounted" in said
            assert "bundle.as_zip(run)" in said and "Using the run r4-alpha8" in said
            assert not places.DRIVE.exists()
    assert earlier.finished_run() == runs.latest() == runs.Run(copied, trained.run.record)
    assert "stays" not in capsys.readouterr().out and not local.exists()


def test_a_run_that_a_full_drive_did_not_take_is_what_the_next_notebook_takes(
    killed, trained, tmp_path, use_tiny_llama, monkeypatch, capsys
):
    with course_on_drive.mounted(monkeypatch, tmp_path, mib=1) as drive:
        home = places.make(places.path("runs", "r4-alpha8"))
        (drive / "photos").write_bytes(bytes(1000_000))
        local = put_run(killed, home)
        finish_training(local, trained)
        assert earlier.finished_run().folder == local
        said = capsys.readouterr().out
        assert "only" in said and "MB free" in said and "bundle.as_zip(run)" in said
        assert not (home / "run.json").exists()


def test_a_relative_that_drive_did_not_take_is_not_trained_again(
    copied, local, trained, use_tiny_llama, capsys
):
    finish_training(local, trained)
    beside = trained.run.record | {"beside": True}
    runs.write(local, beside)
    with course_on_drive.away(), pytest.raises(CourseError, match="not mounted"):
        earlier.finished_run()  # a run beside the student's own is not it
    found = earlier.variant(trained.run, tiny_run.conversations())
    assert found == runs.Run(copied, beside) and "Training" not in capsys.readouterr().out
    assert not places.path("latest_run.json").exists()


def test_a_new_run_of_its_kind_waits_until_it_is_on_drive(copied, local, trained):
    finish_training(local, trained)
    shutil.copy(local / "checkpoint-15" / "adapter_model.safetensors", local)
    runs.write(local, runs.read(local) | manifests.kept(local, runs.KEPT_FILES))
    assert "get to Drive first" in refusal(asked.check_finished, trained.model, local)
    shutil.copytree(local, copied, dirs_exist_ok=True)
    assert "get to Drive" not in refusal(asked.check_finished, trained.model, copied)


def test_a_run_that_ended_later_and_is_on_drive_comes_first(
    copied, local, trained, use_tiny_llama, capsys
):
    finish_training(local, trained)
    later = copied.with_name("r4-alpha8-2")
    shutil.copytree(trained.run.folder, later)
    runs.write(later, trained.run.record)
    places.write_json("latest_run.json", {"name": later.name})
    assert earlier.finished_run().folder == later
    os.utime(local / "run.json", (time.time() + 5, time.time() + 5))
    assert earlier.finished_run().folder == copied == runs.latest().folder


@pytest.mark.parametrize("there", [{"step": 20}, {"data": "other rows"}, {"status": "finished"}])
def test_what_another_machine_made_of_the_run_is_not_written_over(copied, local, trained, there):
    """A run that was stopped here after step 12; on Drive it is further by now, or another one."""
    finish_training(local, trained)
    runs.write(local, trained.run.record | {"status": "stopped", "step": 12})
    runs.write(copied, runs.read(copied) | {"step": 11})
    assert [run.folder for run in earlier._only_here()] == [local]
    runs.write(copied, runs.read(copied) | there)
    assert earlier._only_here() == []


def test_runs_of_another_workspace_and_damaged_ones_are_not_taken(
    copied, local, trained, drive, monkeypatch
):
    finish_training(local, trained)
    with monkeypatch.context() as patch:
        patch.setenv("COURSE_WORKSPACE", str(drive / "another"))
        assert earlier._only_here() == []
    (local / "run.json").write_text("{")
    assert earlier._only_here() == []


# -------------------------------------------------------------------------------------------- callback
class Trainer(SimpleNamespace):
    """As much of a trainer as this looks at."""

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def remove_callback(self, callback):
        self.callbacks.remove(callback)


def test_a_training_writes_to_this_machine_and_its_trainer_is_as_before_afterwards(copied, local):
    trainer = Trainer(args=SimpleNamespace(output_dir=str(copied)), callbacks=[])
    with copier.on_this_machine(trainer, copied) as folder:
        assert folder == local and trainer.args.output_dir == str(local)
        assert [type(one) for one in trainer.callbacks] == [copier.Copier]
    assert trainer.args.output_dir == str(copied) and not trainer.callbacks


def test_a_training_that_breaks_off_copies_what_is_saved_of_it(home, local):
    trainer = Trainer(args=SimpleNamespace(output_dir=str(home)), callbacks=[])
    with pytest.raises(CourseError, match="diverged"), copier.on_this_machine(trainer, home):
        trainer.callbacks[0].on_train_begin(None, None, None)
        raise CourseError("The training diverged.", "", "")
    assert trainer.args.output_dir == str(home) and not trainer.callbacks
    assert copies._listed(home / "kept-a")["step"] == 20


def test_a_training_that_was_refused_before_its_first_step_copies_nothing(home, local):
    trainer = Trainer(args=SimpleNamespace(output_dir=str(home)), callbacks=[])
    with pytest.raises(CourseError, match="refused"), copier.on_this_machine(trainer, home):
        raise CourseError("It was refused.", "", "")
    assert not any(home.iterdir())


def test_elsewhere_than_on_drive_nothing_changes(workspace):
    home = places.make(places.path("runs", "r4-alpha8"))
    trainer = Trainer(args=SimpleNamespace(output_dir=str(home)), callbacks=[])
    with copier.on_this_machine(trainer, home) as folder:
        assert folder == home and not trainer.callbacks
    assert trainer.args.output_dir == str(home)


# -------------------------------------------------------------------------------------------- lists
@given(st.text("ab./\\:-0\n\0é", max_size=30))
def test_a_name_of_ours_stays_in_its_folder(name):
    if manifests.OURS.fullmatch(name):
        parts = Path(name).parts
        assert "/".join(parts) == name and len(parts) <= 2 and ".." not in parts
        assert len(parts) == 1 or parts[0] == "best" or parts[0].startswith("checkpoint")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/."), inner),
        max_leaves=6,
    )
)
def test_a_list_is_taken_whole_or_not_at_all(content):
    try:
        files = manifests.files_in({"files": content})
    except ValueError:
        return
    assert all(size >= 0 and len(digest) == 64 for size, digest in files.values())
