"""What is kept of a training: the adapter with the lowest held-out loss, a record, and no numbers that are none."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback, TrainerControl, TrainerState

from helpers import (
    adapting,
    asked,
    best_adapter,
    bundle,
    data,
    earlier,
    homework,
    keeping,
    ledger,
    manifests,
    presets,
    progress,
    records,
    runs,
    selection,
    trainer_files,
    training,
)
from helpers import workspace as places
from helpers.errors import CourseError
from helpers.trainer_files import ADAPTER

pytestmark = pytest.mark.usefixtures("use_tiny_llama")

# On 8 rows: 30 steps, with a look after every fifth.
LONG = replace(tiny_run.CHOICE, num_train_epochs=15)


class Overdo(TrainerCallback):
    """From step 16 on makes the adapter act more and more strongly, so that held-out rows get worse on every machine.

    Keeps its numbers after each step, and presses Stop during some steps, once in each.
    """

    def __init__(self, *stops: int):
        self.taken, self.stops = {}, list(stops)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 in self.stops:
            self.stops.remove(state.global_step + 1)
            signal.raise_signal(signal.SIGINT)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        named = list(model.named_parameters())
        if state.global_step > 15:
            for name, parameter in named:
                if "lora_B" in name:
                    parameter.data *= 2
        self.taken[state.global_step] = {
            name.replace(".default.", "."): p.detach().clone()
            for name, p in named
            if p.requires_grad
        }


@pytest.fixture(scope="module")
def short_heldout(tmp_path_factory):
    """Held-out rows as short as the ones that are trained on: they can be looked at more often."""
    file = tmp_path_factory.mktemp("heldout") / "short.json"
    file.write_text(json.dumps(tiny_run.conversations().to_list()[-12:]))
    return str(file)


@pytest.fixture(scope="module")
def overdone(tiny_llama, short_heldout, tmp_path_factory):
    """A finished training whose held-out loss was lowest in the middle, with what was printed and its snapshots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_MODEL", str(tiny_llama))
        patch.setenv("COURSE_WORKSPACE", str(tmp_path_factory.mktemp("overdone")))
        patch.setenv("COURSE_HELDOUT", short_heldout)
        overdo = Overdo()
        return tiny_run.fit(tiny_run.conversations(8), LONG, overdo), overdo.taken


@pytest.fixture
def overdone_here(overdone, workspace):
    """That run in a workspace of this test, which it may change, and its model."""
    fitted, _ = overdone
    shutil.copytree(fitted.run.folder.parent.parent, workspace)
    folder = workspace / "runs" / fitted.run.folder.name
    adapting.put_back(fitted.model, folder)
    return runs.Run(folder, fitted.run.record), fitted


def test_the_adapter_with_the_lowest_heldout_loss_is_kept(overdone):
    fitted, snapshots = overdone
    folder = fitted.run.folder
    looks = runs.losses(folder, "heldout_loss")
    step, loss = min(looks, key=lambda look: look[1])
    assert 0 < step < fitted.trainer.state.max_steps, looks
    noted = json.loads((folder / "best" / "best.json").read_text())
    assert noted == fitted.run.record["best"] == {"step": step, "loss": loss}
    saved = tiny_run.adapter(folder / "best")
    assert saved.keys() == snapshots[step].keys()
    assert all(torch.equal(saved[name], snapshots[step][name]) for name in saved)
    assert not list(folder.glob("partial*"))


def test_the_best_adapter_is_taken_when_asked_and_the_last_one_is_not_lost(overdone_here, capsys):
    run, fitted = overdone_here
    last = tiny_run.adapter(run.folder)
    taken = best_adapter.take(run, fitted.model)
    assert f"adapter of step {run.record['best']['step']}" in capsys.readouterr().out
    assert taken == runs.latest() and taken.record["best"]["taken"]
    assert adapting.holds(fitted.model, run.folder)
    assert adapting.holds(fitted.model, run.folder / "best")
    asked.check_model(fitted.model, taken)
    asked.check_saved(*taken)
    (newest,) = run.folder.glob(f"checkpoint-{fitted.trainer.state.max_steps}")
    assert str(tiny_run.adapter(newest)) == str(last) != str(tiny_run.adapter(run.folder))
    # Twice is as once.
    assert best_adapter.take(taken, fitted.model) == taken


def test_a_model_with_another_adapter_gets_none_of_this_run(overdone_here):
    run, fitted = overdone_here
    first = next(p for p in fitted.model.parameters() if p.requires_grad)
    first.data = first.data + 1
    before = str(tiny_run.adapter(run.folder))
    with pytest.raises(CourseError, match="does not hold the adapter"):
        best_adapter.take(run, fitted.model)
    assert str(tiny_run.adapter(run.folder)) == before


def test_an_old_copy_of_a_run_does_not_overwrite_what_its_record_says_by_now(overdone_here):
    run, _ = overdone_here
    now = runs.read(run.folder)
    old = run._replace(record=run.record | {"status": "stopped", "step": 9, "minutes": 99.0})
    taken = best_adapter.take(old)
    changed = {"best": run.record["best"] | {"taken": True}}
    changed |= manifests.kept(run.folder, runs.KEPT_FILES)
    assert taken.record == runs.read(run.folder) == now | changed


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data": "0" * 64}, "holds another run"),
        ({"model": "another"}, "holds another run"),
        ({"status": "started"}, "has not ended"),
    ],
)
def test_no_best_adapter_is_taken_of_another_run_or_one_that_has_not_ended(
    overdone_here, fields, said
):
    run, _ = overdone_here
    runs.write(run.folder, run.record | fields)
    before = run.folder.joinpath(ADAPTER).read_bytes()
    with pytest.raises(CourseError, match=said):
        best_adapter.take(run)
    assert run.folder.joinpath(ADAPTER).read_bytes() == before
    assert runs.read(run.folder) == run.record | fields


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (ADAPTER, lambda whole: whole[:1000], "is damaged: best/adapter_model.safetensors"),
        ("best.json", lambda whole: b"{}", "has no folder best"),
    ],
)
def test_a_damaged_best_adapter_is_not_taken(overdone_here, name, content, said):
    run, _ = overdone_here
    file, before = run.folder / "best" / name, run.folder.joinpath(ADAPTER).read_bytes()
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(CourseError, match=said):
        best_adapter.take(run.folder.name)
    assert run.folder.joinpath(ADAPTER).read_bytes() == before
    assert runs.read(run.folder) == run.record


def test_a_run_that_is_gone_or_was_changed_by_another_notebook_is_said(overdone_here):
    run, fitted = overdone_here
    (run.folder / ADAPTER).write_bytes((run.folder / "best" / ADAPTER).read_bytes())
    now = manifests.kept(run.folder, runs.KEPT_FILES)
    runs.write(run.folder, run.record | now)
    with pytest.raises(CourseError, match="is not what it was when this session"):
        asked.check_model(fitted.model, run)
    shutil.rmtree(run.folder)
    with pytest.raises(CourseError, match="is gone"):
        asked.check_model(fitted.model, run)


@pytest.mark.parametrize("taken", [False, True])
def test_another_adapter_in_a_run_s_folder_is_noticed_and_the_advice_brings_its_own_back(
    overdone_here, taken
):
    run, _ = overdone_here
    if taken:
        run = best_adapter.take(run)
    own = (run.folder / ADAPTER).read_bytes()
    last, best = (run.folder / name for name in (f"checkpoint-{run.record['step']}", "best"))
    (run.folder / ADAPTER).write_bytes(((last if taken else best) / ADAPTER).read_bytes())
    assert "another one" in records.damage(run.folder, hashed=True)
    advised = (best if taken else last).name
    for refused in (lambda: asked.check_saved(*run), earlier.finished_run):
        with pytest.raises(CourseError, match=f"Copy the file .* from the folder {advised}"):
            refused()
    with pytest.raises(CourseError, match="cannot be packed: adapter_model"):
        bundle.as_zip(run)
    shutil.copy(run.folder / advised / ADAPTER, run.folder / ADAPTER)
    assert (run.folder / ADAPTER).read_bytes() == own
    assert earlier.finished_run() == run


def test_answers_of_the_adapter_before_are_not_left_as_those_of_the_best_one(overdone_here, capsys):
    run, fitted = overdone_here
    asked.check_unchanged(run)
    for name in homework.OF_ANSWERS:
        (run.folder / name).write_text("{}")
    taken = best_adapter.take(run, fitted.model)
    said = capsys.readouterr().out
    for name in homework.OF_ANSWERS:
        assert name in said and not (run.folder / name).exists()
    kept = [f.name for f in run.folder.glob(f"*-step{fitted.trainer.state.max_steps}.json")]
    assert len(kept) == len(homework.OF_ANSWERS)
    asked.check_unchanged(taken)
    with pytest.raises(CourseError, match="another adapter than the one that answered"):
        asked.check_unchanged(run)
    with pytest.raises(CourseError, match="`run` is as it was before") as caught:
        asked.check_model(fitted.model, run)
    names = {"model": fitted.model}
    exec(re.match(r".*?run\.folder\)(?=\. Then)", caught.value.todo)[0], names)  # noqa: S102
    asked.check_model(fitted.model, names["run"])
    # Taken again, it is the same adapter: its answers stay.
    (run.folder / "pred.json").write_text("{}")
    best_adapter.take(taken, fitted.model)
    assert (run.folder / "pred.json").exists() and "step" in capsys.readouterr().out


def test_a_run_that_lost_its_adapter_gets_the_best_one(overdone_here):
    run, _ = overdone_here
    (run.folder / ADAPTER).unlink()
    with pytest.raises(CourseError, match=f"{ADAPTER} is gone"):
        asked.check_saved(*run)
    asked.check_saved(*best_adapter.take(run))


def test_a_run_in_whose_folder_another_one_lies_by_now_is_not_measured(overdone_here):
    run, fitted = overdone_here
    runs.write(run.folder, run.record | {"data": "0" * 64})
    with pytest.raises(CourseError, match="holds another run than this session's"):
        asked.check_model(fitted.model, run)


def test_beside_the_student_s_run_the_advice_names_the_run_that_it_is_about(overdone_here, capsys):
    run, _ = overdone_here
    for beside, advice in (
        (False, "run = best_adapter.take(run, model)"),
        (True, f"take({run.folder.name!r})"),
    ):
        keeping.say_end(run.folder, run.record | {"beside": beside}, runs.history(run.folder))
        assert advice in capsys.readouterr().out
    best_adapter.take(run.folder.name)


def test_a_run_that_begins_anew_keeps_no_best_adapter_of_an_earlier_attempt(
    overdone_here, monkeypatch, short_heldout
):
    run, _ = overdone_here
    monkeypatch.setenv("COURSE_HELDOUT", short_heldout)
    runs.write(run.folder, run.record | {"status": "started"})
    for checkpoint in run.folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (run.folder / ADAPTER).unlink()
    note = run.folder / "best" / "best.json"
    note.write_text(json.dumps({"step": 1, "loss": 0.001}))
    again = tiny_run.fit(tiny_run.conversations(8), LONG).run
    assert again.folder == run.folder and again.record["best"]["loss"] > 0.001


def test_a_run_that_another_process_trains_keeps_its_adapter_and_its_record(overdone_here):
    run, _ = overdone_here
    code = "import sys; from pathlib import Path; from helpers import claims\n"
    code += f"with claims.claim(Path({str(run.folder)!r})):\n    print(flush=True); input()"
    before = run.folder.joinpath(ADAPTER).read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, text=True, cwd=places.KIT
    ) as other:
        other.stdout.readline()
        with pytest.raises(CourseError, match=f"being trained already, by process {other.pid}"):
            best_adapter.take(run)
        other.communicate("\n")
    assert run.folder.joinpath(ADAPTER).read_bytes() == before
    assert runs.read(run.folder) == run.record
    assert best_adapter.take(run).record["best"]["taken"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_the_best_adapter_is_put_in_place_files_no_adapter_as_the_other(
    overdone_here, monkeypatch, moment
):
    class Killed(BaseException):
        pass

    run, _ = overdone_here
    replace_file = os.replace

    def killed(source, target):
        if Path(target).name != ADAPTER or moment == "after":
            replace_file(source, target)
        if Path(target).name == ADAPTER:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        best_adapter.take(run)
    here = runs.Run(run.folder, runs.read(run.folder))
    assert "best adapter was broken off" in records.damage(run.folder)
    with pytest.raises(CourseError, match="nobody knows which"):
        asked.check_saved(*here)
    taken = best_adapter.take(here)
    asked.check_saved(*taken)
    assert taken.record["best"] == run.record["best"] | {"taken": True}
    assert str(tiny_run.adapter(run.folder)) == str(tiny_run.adapter(run.folder / "best"))


def test_where_the_adapter_cannot_be_written_the_run_is_as_it_was(overdone_here, monkeypatch):
    run, _ = overdone_here
    before = sorted((f.name, f.read_bytes()) for f in run.folder.iterdir() if f.is_file())

    replace_file = os.replace

    def refused(source, target):
        if Path(target).name == ADAPTER:
            raise OSError(errno.EACCES, "Permission denied")
        replace_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(CourseError, match="The adapter could not"):
        patch.setattr(os, "replace", refused)
        best_adapter.take(run)
    assert before == sorted((f.name, f.read_bytes()) for f in run.folder.iterdir() if f.is_file())


def test_a_run_that_nobody_looked_at_has_no_best_adapter(overdone_here):
    run, _ = overdone_here
    shutil.rmtree(run.folder / "best")
    with pytest.raises(CourseError, match="has no folder best"):
        best_adapter.take(run)


def test_a_run_that_begins_anew_forgets_what_an_earlier_attempt_kept(workspace, capsys):
    rows = tiny_run.conversations(8)
    choice = replace(tiny_run.CHOICE, num_train_epochs=1)
    _, _, trainer = tiny_run.build(rows, choice)
    stale = workspace / "runs" / "r4-alpha8" / "best"
    stale.mkdir(parents=True)
    (stale / "best.json").write_text('{"step": 99, "loss": 0.1}')
    run = training.train(trainer, choice, rows)
    assert run.record["best"]["step"] <= 2


def test_with_patience_a_training_ends_early_and_the_record_says_so(
    overdone, short_heldout, workspace, capsys, monkeypatch
):
    monkeypatch.setenv("COURSE_HELDOUT", short_heldout)
    whole, _ = overdone
    choice = replace(LONG, patience=1)
    fitted = tiny_run.fit(tiny_run.conversations(8), choice, Overdo())
    record, said = fitted.run.record, capsys.readouterr().out
    assert record["status"] == "finished" and record["ended_early"]
    looks = [look for look in runs.losses(fitted.run.folder, "heldout_loss") if look[0]]
    losses = [loss for _, loss in looks]
    assert losses[:-1] == sorted(losses[:-1], reverse=True)
    assert losses[-1] >= losses[-2]
    assert record["step"] == looks[-1][0] < record["steps"]
    assert f"ended early, after step {record['step']} of {record['steps']}" in said
    assert f"lowest at step {looks[-2][0]}" in said and "best_adapter.take" in said
    # Until there it is the training without patience.
    assert (
        looks
        == [one for one in runs.losses(whole.run.folder, "heldout_loss") if one[0]][: len(looks)]
    )
    assert runs.latest() == fitted.run
    again = training.train(fitted.trainer, choice, tiny_run.conversations(8))
    assert again.record == record and "nothing was trained now" in capsys.readouterr().out


class StopIn(TrainerCallback):
    """Presses Stop during some steps, once in each."""

    def __init__(self, *steps: int):
        self.steps = list(steps)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 in self.steps:
            self.steps.remove(state.global_step + 1)
            signal.raise_signal(signal.SIGINT)


def test_a_training_that_was_stopped_ends_early_where_one_that_was_not_does(
    overdone, short_heldout, workspace, monkeypatch
):
    monkeypatch.setenv("COURSE_HELDOUT", short_heldout)
    whole, _ = overdone
    rows, choice, stops = tiny_run.conversations(8), replace(LONG, patience=1), (13, 17)
    _, _, trainer = tiny_run.build(rows, choice)
    overdo = Overdo(*stops)
    trainer.add_callback(overdo)
    for step in stops:
        assert training.train(trainer, choice, rows).record["step"] == step
    run = training.train(trainer, choice, rows)
    assert (run.record["ended_early"], run.record["step"]) == (True, 20)
    history = runs.history(run.folder)
    assert [step for step, _ in trainer_files.looks(history)] == [5, 10, 13, 15, 17, 20]
    usual = trainer_files.looks(runs.history(whole.run.folder))
    assert trainer_files.looks(history, usual=True) == usual[:4]
    # The best adapter may be one of a look that was added.
    step, loss = trainer_files.lowest(trainer_files.looks(history))
    assert run.record["best"] == {"step": step, "loss": loss}
    saved = tiny_run.adapter(run.folder / "best")
    assert all(torch.equal(saved[name], overdo.taken[step][name]) for name in saved)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_looks_that_stop_added_change_nothing_in_when_a_training_ends(taken, patience):
    """Losses from 1 to 5, and whether only Stop made the training look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_adapter, "_keep", lambda *_: None)
        history = [
            {"step": n, "heldout_loss": loss} | ({"added": True} if added else {})
            for n, (loss, added) in enumerate(taken, 1)
        ]
        usual = [entry for entry in history if "added" not in entry]
        ends = [_end(history, patience), _end(usual, patience)]
    assert ends[0] == ends[1]


def _end(history: list[dict], patience: int) -> int | None:
    """After which step a training with these looks ends early."""
    best = best_adapter.Best(None, patience)
    for n, entry in enumerate(history, 1):
        state = TrainerState(global_step=entry["step"], max_steps=99, log_history=history[:n])
        best.on_step_end(None, state, TrainerControl())
        if best.ended_early:
            return entry["step"]
    return None


def test_patience_is_no_argument_of_a_call_and_survives_a_file(workspace):
    choice = replace(tiny_run.CHOICE, patience=2)
    assert "patience" not in choice.training_arguments(8, 4, 1e-3)
    with pytest.raises(CourseError, match="patience = 0"):
        replace(choice, patience=0)


# --------------------------------------------------------------------------------- numbers that are none
def test_a_loss_that_is_no_number_ends_the_training_at_once_and_says_why(workspace, capsys):
    choice = replace(tiny_run.CHOICE, learning_rate=1e30)
    rows = tiny_run.conversations()
    _, _, trainer = tiny_run.build(rows, choice)
    with pytest.raises(CourseError, match="diverged") as caught:
        training.train(trainer, choice, rows)
    said = str(caught.value)
    assert trainer.state.global_step < 5 and "learning_rate (here 1e+30)" in said
    assert "lora_alpha (here 8)" in said and "learning_rate = 1e+30 is very high" in said
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(map(math.isfinite, losses[:-1])) and not math.isfinite(losses[-1])
    assert "diverged in step" in ledger.table()["status"]["r4-alpha8"]
    folder = workspace / "runs" / "r4-alpha8"
    assert (
        not list(folder.glob("checkpoint-*"))
        and not (folder / "adapter_model.safetensors").exists()
    )


def test_no_checkpoint_is_saved_whose_adapter_holds_nan_and_the_one_before_stays(
    workspace, trained
):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 10:
                next(p for p in model.parameters() if p.requires_grad).data[0, 0] = math.nan

    rows = tiny_run.conversations()
    _, _, trainer = tiny_run.build(rows)
    trainer.add_callback(Spoil())
    with pytest.raises(
        CourseError, match="adapter holds NaN or infinity in step 10 of 24"
    ) as caught:
        training.train(trainer, tiny_run.CHOICE, rows)
    assert "checkpoint-5 of the run r4-alpha8 is kept" in str(caught.value)
    trainer.remove_callback(Spoil)
    run = training.train(trainer, tiny_run.CHOICE, rows)
    tiny_run.assert_same_adapter(run, trained.run)


def test_what_does_not_fit_is_answered_with_the_smallest_change_that_does():
    choice = replace(tiny_run.CHOICE, r=16, max_length=2048, rows_per_update=64)
    said = progress._smaller(choice, "llama-2-7b", 64, [2048] * 64)
    assert "rows at once instead of 64 (by the memory model" in said
    # Where the memory model says that it fits, another program takes the room.
    assert "such as 4," in progress._smaller(choice, "llama-2-7b", 8, [100] * 20)
    assert "smaller r" in progress._smaller(choice, "llama-2-7b", 1, [100] * 20)


def test_a_gpu_without_bfloat16_is_not_trained_in_it(workspace, monkeypatch):
    rows = tiny_run.conversations(8)
    _, _, trainer = tiny_run.build(rows)
    usual = training._usual(trainer, tiny_run.CHOICE, rows)
    monkeypatch.setattr(trainer.args, "bf16", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {}
    for capability in ((7, 5), (8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        folder = workspace / "runs" / "r4-alpha8"
        found[capability] = asked._wrong(trainer, tiny_run.CHOICE, rows, folder, usual)
    assert "bfloat16, which this GPU does not" in found[7, 5][0] and found[8, 0] == []


# ------------------------------------------------------------------------------------- where it is kept
@pytest.mark.parametrize("name", ["My Drive", "Übungen für 练习 (1)"])
def test_a_workspace_may_have_spaces_and_any_letters_in_its_name(tmp_path, monkeypatch, name):
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / name))
    choice = replace(tiny_run.CHOICE, num_train_epochs=1)
    run = tiny_run.fit(tiny_run.conversations(24), choice).run
    assert run.folder.is_relative_to(tmp_path / name) and run.record["best"]
    assert {path.name for path in run.folder.glob("checkpoint-*")} == {
        "checkpoint-5",
        "checkpoint-6",
    }
    assert runs.newest_checkpoint(run.folder).name == "checkpoint-6"


def test_a_workspace_that_is_deleted_while_a_training_runs_has_the_run_at_its_end(
    workspace, trained
):
    class Delete(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                shutil.rmtree(workspace)

    run = tiny_run.fit(callback=Delete()).run
    tiny_run.assert_same_adapter(run, trained.run)
    assert run == runs.latest() and run.record == runs.read(run.folder)
    rows = json.loads((run.folder / "conversations.json").read_text())
    assert rows == tiny_run.conversations().to_list()


# ----------------------------------------------------------------------------------------- the record
def test_the_record_says_with_what_and_on_what_it_was_trained(trained):
    record = trained.run.record
    assert record["seed"] == presets.SEED and record["model_revision"] is None
    assert record["number_format"] == ("bfloat16" if trained.trainer.args.bf16 else "float32")
    assert record["machine"].keys() == {"cpu", "python"} and all(record["machine"].values())
    assert (record["updates"], record["skipped_updates"]) == (tiny_run.STEPS, 0)
    looking = data.heldout("looking", presets.size().looking)
    assert record["heldout"]["rows"] == len(looking) == 4
    assert record["heldout"]["sha"] == selection.fingerprint(looking)
    assert (record["step"], record["steps"]) == (24, 24) and "ended_early" not in record


def test_updates_are_counted_on_after_an_interruption(interrupted, resume):
    checkpoint = interrupted / "checkpoint-20" / "so_far.json"
    said = json.loads(checkpoint.read_text())
    assert (said["updates"], said["skipped_updates"]) == (20, 0)
    checkpoint.write_text(json.dumps(said | {"updates": 17, "skipped_updates": 3}))
    runs.write(interrupted, {k: v for k, v in runs.read(interrupted).items() if k != "checkpoints"})
    run, _ = resume()
    assert (run.record["updates"], run.record["skipped_updates"]) == (21, 3)


def test_a_run_is_not_gone_on_with_other_heldout_rows(interrupted, resume, tmp_path, monkeypatch):
    rows = json.loads(data.OUR_HELDOUT.read_text())
    other = tmp_path / "mine.json"
    other.write_text(
        json.dumps([{k: v for k, v in row.items() if k != "part"} for row in rows[20:50]])
    )
    monkeypatch.setenv("COURSE_HELDOUT", str(other))
    with pytest.raises(CourseError, match="other held-out rows"):
        resume()
    monkeypatch.delenv("COURSE_HELDOUT")
    assert resume()[0].record["status"] == "finished"


def test_a_training_whose_last_checkpoint_is_whole_is_finished_without_another_step(
    trained, resume, workspace
):
    """The machine went away after the last checkpoint and before the run's record."""
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    (folder,) = (workspace / "runs").iterdir()
    runs.write(folder, runs.read(folder) | {"status": "started"})
    (folder / "adapter_model.safetensors").unlink()
    run, steps = resume()
    assert steps == 0 and run.record["step"] == run.record["steps"] == tiny_run.STEPS
    assert run.record["status"] == "finished"
    assert runs.losses(run.folder) == runs.losses(trained.run.folder)
    ours, theirs = (tiny_run.adapter(one.folder) for one in (run, trained.run))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


# ----------------------------------------------------------------------------------- the plain recipe
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_losses_are_those_of_the_plain_recipe_with_unsloth_and_trl_bit_for_bit(
    workspace, tiny_llama, dropout
):
    choice = replace(tiny_run.CHOICE, lora_dropout=dropout, num_train_epochs=2)
    rows = tiny_run.conversations(16)
    run = tiny_run.fit(rows, choice).run
    assert runs.losses(run.folder) == plain_losses(tiny_llama, rows, dropout, workspace)


def plain_losses(model_folder, rows, dropout, workspace) -> list[tuple[int, float]]:
    """Unsloth and TRL as their own examples call them, with nothing of the course but its rows and its numbers."""
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel, get_chat_template, is_bfloat16_supported

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(model_folder), max_seq_length=512, load_in_4bit=True
    )
    tokenizer = get_chat_template(tokenizer, chat_template="llama")
    model = FastLanguageModel.get_peft_model(
        model,
        r=4,
        lora_alpha=8,
        target_modules=[*presets.PROJECTIONS],
        lora_dropout=dropout,
        bias="none",
        use_gradient_checkpointing=False,
        random_state=3407,
    )
    config = SFTConfig(
        output_dir=str(workspace / "plain"),
        per_device_train_batch_size=training.CPU_ROWS_AT_ONCE,
        gradient_accumulation_steps=4 // training.CPU_ROWS_AT_ONCE,
        num_train_epochs=2,
        learning_rate=0.01,
        warmup_steps=2,
        lr_scheduler_type="linear",
        optim="adamw_8bit",
        weight_decay=0.01,
        max_length=512,
        fp16=False,
        bf16=is_bfloat16_supported(),
        seed=3407,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        gradient_checkpointing=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=data.to_prompt_completion(rows),
        processing_class=tokenizer,
    )
    # The one thing that TRL does otherwise on a CPU: there it turns the adapter into bfloat16.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.train()
    return [
        (entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry
    ]
