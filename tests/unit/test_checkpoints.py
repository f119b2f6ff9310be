"""Going on after an interruption: from the newest whole checkpoint, to the same end, and nothing is taken twice."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from helpers import checkpoints, keeping, progress, runs, training
from helpers.errors import CourseError

pytestmark = pytest.mark.usefixtures("use_tiny_llama")

# What Trainer writes into a checkpoint of an adapter, with fp16 also scaler.pt; and the course's own file.
FILES = (
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "so_far.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
    "training_args.bin",
)
SHARES = {"missing": None, "empty": 0, "half": 0.5}


def damage(file: Path, share: float | None) -> None:
    """Leave a share of a file, or nothing of it."""
    content = file.read_bytes()
    file.unlink()
    if share is not None:
        file.write_bytes(content[: int(len(content) * share)])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_list_of_files_is_what_trainer_writes(interrupted):
    found = {file.name for file in (interrupted / "checkpoint-20").iterdir()}
    assert found - {"scaler.pt"} == set(FILES)


def test_a_killed_run_goes_on_and_ends_bit_for_bit_like_one_that_was_never_killed(
    interrupted, trained, resume, capsys
):
    run, steps = resume()
    assert run.folder == interrupted and run.record["status"] == "finished"
    assert steps == tiny_run.STEPS - 20 and "checkpoint-20" in capsys.readouterr().out
    tiny_run.assert_same_adapter(run, trained.run)
    assert runs.losses(run.folder) == runs.losses(trained.run.folder)


@pytest.mark.parametrize("kind", SHARES)
def test_with_any_file_damaged_training_goes_on_exactly_from_the_checkpoint_before(
    interrupted, killed, trained, resume, capsys, kind
):
    before = contents(interrupted / "checkpoint-15")
    for name in FILES:
        shutil.rmtree(interrupted)
        shutil.copytree(killed / "runs" / interrupted.name, interrupted)
        damage(interrupted / "checkpoint-20" / name, SHARES[kind])
        assert runs.newest_checkpoint(interrupted).name == "checkpoint-15", name
        said = capsys.readouterr().out
        assert f"checkpoint-20 in {interrupted.name} is passed over: {name}" in said
        # What is gone on from is the same after each: one training, after the last, is all of them.
        assert contents(interrupted / "checkpoint-15") == before
        (interrupted / "passed-over-checkpoint-20").rename(interrupted / "checkpoint-20")
    run, steps = resume()
    said = capsys.readouterr().out
    assert steps == tiny_run.STEPS - 15 and "Going on from checkpoint-15." in said
    tiny_run.assert_same_adapter(run, trained.run)
    assert runs.losses(run.folder) == runs.losses(trained.run.folder)


def test_tokens_are_counted_on_in_a_new_session(interrupted, trained, resume):
    run, _ = resume()
    assert runs.losses(run.folder, "num_tokens") == runs.losses(trained.run.folder, "num_tokens")


@pytest.mark.parametrize(
    ("before", "stepped", "now", "recorded"),
    [
        (4.5, True, 3.0, 4.5),
        (4.5, True, 5.0, 5.0),
        (None, True, 3.0, 3.0),
        (4.5, False, 5.0, 4.5),
        (None, False, 5.0, None),
        (4.5, True, None, 4.5),
        (None, True, None, None),
    ],
)
def test_the_peak_of_memory_is_that_of_all_sessions(
    tmp_path, monkeypatch, before, stepped, now, recorded
):
    """Peaks in GiB, and whether this session took a step; without one now there is no GPU in it."""
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "so_far.json").write_text(json.dumps({"peak_memory_gib": before}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: now is not None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: int(now * 2**30))
    clock = progress.Clock(tmp_path, {"tokens": 100}, keeping.so_far(checkpoint, {}))
    state, control = TrainerState(global_step=5, max_steps=10), TrainerControl()
    if stepped:
        clock.on_step_end(None, state, control)
    assert clock.so_far(state).get("peak_memory_gib") == recorded


def forget_sizes(run: Path) -> None:
    """As where the machine went away before ``run.json`` was written."""
    runs.write(run, {n: v for n, v in runs.read(run).items() if n != "checkpoints"})


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_knows_the_sizes_of_its_files_by_itself(interrupted, name):
    forget_sizes(interrupted)
    damage(interrupted / "checkpoint-20" / name, 0.5)
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-15"


@pytest.mark.parametrize("name", sorted(set(FILES) - {"so_far.json"}))
def test_without_any_size_on_record_a_needed_file_that_is_cut_is_noticed(interrupted, name):
    """An older version of the course wrote no so_far.json."""
    forget_sizes(interrupted)
    for checkpoint in interrupted.glob("checkpoint-*"):
        (checkpoint / "so_far.json").unlink()
    damage(interrupted / "checkpoint-20" / name, 0.5)
    # A card or a template that ends early does not show it, and training does not read them.
    text = name in ("README.md", "chat_template.jinja")
    assert runs.newest_checkpoint(interrupted).name == f"checkpoint-{20 if text else 15}"


def test_a_training_in_fp16_goes_on_only_with_its_gradient_scaler(interrupted, capsys):
    note = interrupted / "checkpoint-20" / "so_far.json"
    said = json.loads(note.read_text())
    forget_sizes(interrupted)
    note.write_text(json.dumps(said | {"number_format": "float16"}))
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-15"
    assert "scaler.pt is missing" in capsys.readouterr().out


# ------------------------------------------------------------------------------- whole or not there
def test_what_a_killed_run_was_writing_is_removed_and_said_in_one_line(
    interrupted, trained, resume, capsys
):
    half = interrupted / "partial-checkpoint" / "checkpoint-22"
    shutil.copytree(interrupted / "checkpoint-20", half)
    damage(half / "optimizer.pt", 0.5)
    run, steps = resume()
    assert steps == tiny_run.STEPS - 20
    assert capsys.readouterr().out.count("half written") == 1
    assert not list(interrupted.glob("partial*")) and not list(interrupted.glob("passed-over*"))
    tiny_run.assert_same_adapter(run, trained.run)


def test_a_checkpoint_has_its_name_only_when_all_of_it_is_written(workspace, monkeypatch):
    """Between any two files that Trainer writes, the folder holds whole checkpoints only."""
    _, _, trainer = tiny_run.build()
    kept, seen = Path(trainer.args.output_dir), []

    def watched(name):
        save = getattr(trainer, name)

        def then(*args, **kwargs):
            found = [path for path in kept.glob("checkpoint-*")]
            seen.append({path.name: checkpoints._fault(path, step_of(path), {}) for path in found})
            return save(*args, **kwargs)

        monkeypatch.setattr(trainer, name, then)

    for name in ("save_model", "_save_optimizer_and_scheduler", "_save_rng_state"):
        watched(name)
    training.train(trainer, tiny_run.CHOICE, tiny_run.conversations())
    assert len(seen) == 3 * 5 + 1
    assert all(fault is None for found in seen for fault in found.values())
    # The older two are deleted when the new one is there.
    assert set(seen[-2]) == {"checkpoint-15", "checkpoint-20"}
    assert {path.name for path in kept.glob("checkpoint-*")} == {"checkpoint-20", "checkpoint-24"}


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def test_after_two_minutes_a_checkpoint_is_written_between_those_of_every_five_steps(
    workspace, monkeypatch
):
    monkeypatch.setattr(progress, "SAVE_SECONDS", -1)
    saved = []

    class Note(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            saved.append(state.global_step)

    choice = replace(tiny_run.CHOICE, num_train_epochs=1)
    run = tiny_run.fit(choice=choice, callback=Note()).run
    assert saved == [step + 1 for step in range(tiny_run.STEPS // 3)]
    assert run.record["minutes"] >= 0


# -------------------------------------------------------------------------------------- never mixed
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("model", "another"), ("data", "0" * 64), ("choice", {"r": 5})),
        *(("number_format", "float16"), ("optim", "sgd")),
    ],
)
def test_a_checkpoint_of_another_run_is_not_gone_on_from(interrupted, resume, name, value):
    note = interrupted / "checkpoint-20" / "so_far.json"
    (interrupted / "checkpoint-20" / "scaler.pt").write_bytes(
        (interrupted / "checkpoint-20" / "optimizer.pt").read_bytes()
    )
    note.write_text(json.dumps(json.loads(note.read_text()) | {name: value}))
    forget_sizes(interrupted)
    with pytest.raises(
        CourseError, match=f"of another run: other {name if name != 'optim' else 'optimizer'}"
    ):
        resume()
    # Followed to the letter.
    shutil.move(interrupted / "checkpoint-20", interrupted.parent.parent / "away")
    _, steps = resume()
    assert steps == tiny_run.STEPS - 15


@pytest.mark.parametrize(
    ("then", "now"), [("a" * 40, "b" * 40), (None, "b" * 40), ("a" * 40, None)]
)
def test_another_commit_of_the_base_model_is_said_and_gone_on_with(interrupted, capsys, then, now):
    """The Hub gives its newest commit, which may differ in a README alone; a model in a folder has none."""
    checkpoint = interrupted / "checkpoint-20"
    note = json.loads((checkpoint / "so_far.json").read_text()) | {"model_revision": then}
    (checkpoint / "so_far.json").write_text(json.dumps(note))
    record = runs.read(interrupted)
    keeping.check_belongs(
        checkpoint, record | {"model_revision": now, "versions": note["versions"]}
    )
    said = "commit aaaaaaaaaaaa (now bbbbbbbbbbbb)"
    assert (said in capsys.readouterr().out) == bool(then and now)


def test_a_folder_gets_its_name_when_all_in_it_is_on_the_disk(tmp_path, monkeypatch):
    written, place, synced = tmp_path / "written", tmp_path / "place", []
    (written / "checkpoint-5").mkdir(parents=True)
    (written / "checkpoint-5" / "optimizer.pt").write_bytes(b"x")
    place.mkdir()
    fsync = os.fsync

    def noted(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    checkpoints.put(written, place)
    assert synced[-1] == tmp_path.name and {"optimizer.pt", "checkpoint-5", "written"} <= set(
        synced
    )
    assert [p.name for p in tmp_path.iterdir()] == ["place"]
    assert (place / "checkpoint-5" / "optimizer.pt").read_bytes() == b"x"


def test_a_run_that_began_in_another_number_format_is_not_gone_on_with(interrupted, resume):
    record = runs.read(interrupted)
    runs.write(interrupted, record | {"number_format": "float16", "machine": {"gpu": "Tesla T4"}})
    with pytest.raises(CourseError, match="began in float16") as caught:
        resume()
    assert "Tesla T4" in caught.value.todo


def test_other_versions_are_said_and_gone_on_with(interrupted, trained, resume, capsys):
    note = interrupted / "checkpoint-20" / "so_far.json"
    said = json.loads(note.read_text())
    said["versions"]["peft"] = "0.1"
    note.write_text(json.dumps(said))
    forget_sizes(interrupted)
    run, _ = resume()
    assert "saved with peft 0.1 (now " in capsys.readouterr().out
    tiny_run.assert_same_adapter(run, trained.run)


def test_a_run_of_a_version_that_knew_no_patience_is_the_same_run(interrupted, resume):
    record = runs.read(interrupted)
    del record["choice"]["patience"], record["number_format"]
    runs.write(interrupted, record)
    for checkpoint in interrupted.glob("checkpoint-*"):
        (checkpoint / "so_far.json").unlink()
    forget_sizes(interrupted)
    run, steps = resume()
    assert run.folder == interrupted and steps == tiny_run.STEPS - 20


def test_what_was_passed_over_is_kept_and_not_tried_again(interrupted, capsys):
    damage(interrupted / "checkpoint-20" / "optimizer.pt", 0.5)
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-15"
    (said,) = capsys.readouterr().out.splitlines()
    assert "optimizer.pt is cut off" in said and "passed-over-checkpoint-20" in said
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-15"
    assert capsys.readouterr().out == ""
    assert (interrupted / "passed-over-checkpoint-20" / "adapter_model.safetensors").is_file()
    # A second one of the same step keeps the first.
    shutil.copytree(interrupted / "passed-over-checkpoint-20", interrupted / "checkpoint-20")
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-15"
    assert len(list(interrupted.glob("passed-over-*"))) == 2


def test_without_a_whole_checkpoint_training_starts_anew_and_says_so(
    interrupted, trained, resume, capsys
):
    for checkpoint in interrupted.glob("checkpoint-*"):
        damage(checkpoint / "trainer_state.json", None)
    run, steps = resume()
    assert steps == tiny_run.STEPS and "training starts anew" in capsys.readouterr().out
    tiny_run.assert_same_adapter(run, trained.run)


@pytest.mark.slow
def test_what_only_looks_like_a_checkpoint_is_passed_over_and_left_whole(
    interrupted, trained, resume, capsys
):
    (interrupted / "checkpoint-9").write_text("my notes")
    (interrupted / "checkpoint-abc").mkdir()
    (interrupted / "checkpoint-abc" / "some.txt").write_text("more notes")
    for name in ("checkpoint-30.tmp", "checkpoint-20 (1)", "checkpoint-010", "checkpoint-0"):
        shutil.copytree(interrupted / "checkpoint-20", interrupted / name)
    run, steps = resume()
    said = capsys.readouterr().out
    assert steps == tiny_run.STEPS - 20
    tiny_run.assert_same_adapter(run, trained.run)
    lookalikes = sorted(file.name for file in run.folder.glob("passed-over-*"))
    assert len(lookalikes) == 6 and said.count("only looks like a checkpoint") == 6
    assert (run.folder / "passed-over-checkpoint-9").read_text() == "my notes"
    # Trainer keeps the two newest of its own and deletes none of these.
    kept = {file.name for file in run.folder.glob("checkpoint-*")}
    assert kept == {"checkpoint-20", f"checkpoint-{tiny_run.STEPS}"}


def test_a_copy_under_another_step_s_name_is_none_of_that_step(interrupted):
    shutil.copytree(interrupted / "checkpoint-15", interrupted / "checkpoint-150")
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-20"


def test_an_empty_folder_is_removed(interrupted, capsys):
    (interrupted / "checkpoint-9999").mkdir()
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-20"
    assert "checkpoint-9999" in capsys.readouterr().out
    assert not list(interrupted.glob("*9999*"))


def test_the_newest_checkpoint_is_the_one_with_the_most_steps(interrupted):
    """In numbers, not in letters: 20 comes after 9."""
    shutil.copytree(interrupted / "checkpoint-15", interrupted / "checkpoint-9")
    state = interrupted / "checkpoint-9" / "trainer_state.json"
    state.write_text(re.sub(r'"global_step": 15', '"global_step": 9', state.read_text()))
    sizes = runs.read(interrupted)["checkpoints"]
    assert sizes.keys() == {"checkpoint-15", "checkpoint-20"}
    assert runs.newest_checkpoint(interrupted).name == "checkpoint-20"


def test_a_run_that_was_killed_after_its_last_checkpoint_is_finished_without_a_step(
    workspace, trained, resume
):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    folder = workspace / "runs" / trained.run.folder.name
    (folder / "adapter_model.safetensors").unlink()
    runs.write(folder, trained.run.record | {"status": "started"})
    run, steps = resume()
    assert run.folder == folder and steps == 0
    tiny_run.assert_same_adapter(run, trained.run)


def test_empty_files_in_a_folder_that_no_run_made_are_no_checkpoint(tmp_path):
    """`cut_checkpoint.py` among the reports: a folder on Drive whose files have not arrived."""
    code = (
        "import sys, pathlib; from helpers import runs; newest = pathlib.Path(sys.argv[1]) / 'checkpoint-15'; "
        "newest.mkdir(); names = ('adapter_model.safetensors', 'optimizer.pt', 'scheduler.pt', 'rng_state.pth'); "
        "[(newest / name).write_bytes(b'') for name in names]; "
        "(newest / 'trainer_state.json').write_text('{}'); print(runs.newest_checkpoint(newest.parent))"
    )
    kit = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=kit, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "None"
    assert "is passed over" in done.stdout
