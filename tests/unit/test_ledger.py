"""The ledger of all runs: what the folders hold, in a table, curves and words; one trained again, one deleted."""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import drives
import numpy as np
import pytest
import tiny_run
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import (
    adapting,
    best_adapter,
    claims,
    copies,
    ledger,
    models,
    one_run,
    records,
    runs,
    selection,
    stages,
    trainer_files,
)
from helpers.errors import CourseError

KIT = Path(__file__).parents[2]
SMALLER = replace(tiny_run.CHOICE, r=2)
SHORT = replace(tiny_run.CHOICE, num_train_epochs=1)


@pytest.fixture(scope="session")
def two(trained, tiny_llama, tmp_path_factory):
    """A workspace with a run of r = 4, and a newer one of r = 2, both on the same rows; tests only copy it."""
    folder = tmp_path_factory.mktemp("two") / "workspace"
    shutil.copytree(trained.run.folder.parents[1], folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_MODEL", str(tiny_llama))
        patch.setenv("COURSE_WORKSPACE", str(folder))
        tiny_run.fit(choice=SMALLER)
    return folder


@pytest.fixture
def both(two, workspace):
    """The folders of the two runs in a workspace of the test's own, the newer one last."""
    shutil.copytree(two, workspace)
    older, newer = (runs.name_of(choice) for choice in (tiny_run.CHOICE, SMALLER))
    return workspace / "runs" / older, workspace / "runs" / newer


def change(folder: Path, name: str, **fields) -> None:
    """Other fields in one of a run's JSON files, which keeps its date."""
    file = folder / name
    times = (file.stat().st_atime, file.stat().st_mtime)
    held = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(held | fields), encoding="utf-8")
    os.utime(file, times)


def looked(folder: Path, *losses: float) -> None:
    """Held-out losses in a run's notes, as the trainer writes them: of every eighth step, from step 0 on."""
    log = [one for one in runs.history(folder) if "heldout_loss" not in one]
    log += [
        {"step": 8 * i, "epoch": float(i), "heldout_loss": loss} for i, loss in enumerate(losses)
    ]
    change(folder, "trainer_state.json", log_history=log)


def names_in(workspace: Path) -> set[str]:
    return {folder.name for folder in (workspace / "runs").iterdir()}


# -------------------------------------------------------------------------------------------- table
def test_the_table_has_a_row_for_each_run_the_newest_last(both):
    older, newer = both
    table = ledger.table()
    assert list(table.index) == [older.name, newer.name]
    row, losses = table.loc[older.name], [loss for _, loss in runs.losses(older)]
    assert (row["status"], row["r"], row["alpha"], row["epochs"]) == ("finished", 4, 8, 3)
    assert (row["rows"], row["steps"], row["tokens"]) == (32, 24, runs.read(older)["tokens"])
    assert row["loss"] == pytest.approx(sum(losses[-8:]) / 8, abs=1e-3)
    assert all(isinstance(row[name], int | np.integer) for name in ("r", "epochs", "tokens"))
    assert len(set(table["data"])) == 1, "the same rows have the same mark"
    assert "/" not in row["model"]


def test_held_out_losses_stand_there_at_the_end_and_at_their_lowest(both):
    looked(both[0], 6.0, 5.5, 5.2, 5.3)
    assert list(ledger.table().loc[both[0].name, ["held-out", "best"]]) == [5.3, 5.2]


@pytest.mark.parametrize(
    "losses",
    [(1.0, 5.4, 5.2, 5.3), (math.nan, 5.4, 5.2, 5.3)],
    ids=["the untrained model was better", "NaN"],
)
def test_the_best_held_out_loss_is_the_one_whose_adapter_is_kept(both, losses):
    looked(both[0], *losses)
    assert ledger.table().loc[both[0].name, "best"] == 5.2
    assert trainer_files.lowest(trainer_files.looks(runs.history(both[0])))[1] == 5.2


def test_an_empty_workspace_has_an_empty_table_with_the_same_columns(both, workspace):
    columns = list(ledger.table().columns)
    shutil.rmtree(workspace)
    assert ledger.table().empty and list(ledger.table().columns) == columns


def test_a_killed_run_says_how_far_its_checkpoints_are(interrupted):
    row = ledger.table().loc[interrupted.name]
    steps = max(int(path.name.partition("-")[2]) for path in interrupted.glob("checkpoint-*"))
    assert row["status"] == f"interrupted at {steps} of {tiny_run.STEPS}"
    assert 0 < row["tokens"] < runs.read(interrupted)["tokens"] * 2 and row["steps"] == steps


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", None, "run.json is gone"),
        ("run.json", b"", "run.json cannot be read"),
        ("run.json", b'{"model": "x"', "run.json cannot be read"),
        ("run.json", b"[1]", "run.json is gone or empty"),
        ("run.json", b"\xff\xfe{", "run.json cannot be read"),
        ("run.json", b'{"model": "x", "choice": 7}', "run.json says no choice"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors is gone"),
        ("adapter_model.safetensors", b"half", "adapter_model.safetensors is cut off"),
        ("trainer_state.json", b'{"log_hist', "trainer_state.json cannot be read"),
    ],
)
def test_a_damaged_folder_is_a_row_that_says_so_and_the_others_stay(both, name, content, said):
    older, newer = both
    (older / name).unlink() if content is None else (older / name).write_bytes(content)
    table = ledger.table()
    assert table.loc[older.name, "status"].startswith(f"damaged: {said}")
    assert table.loc[newer.name, "status"] == "finished"
    with pytest.raises(CourseError, match=said):
        ledger.differences(older.name, newer.name)
    assert len(ledger.curves().axes[0].lines) == 2, "the smoothed and the thin line of one run"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRIES = st.lists(
    JSON | st.fixed_dictionaries({"step": JSON, "loss": JSON, "heldout_loss": JSON}), max_size=4
)
FREE = (
    "tokens",
    "minutes",
    "step",
    "files",
    "best",
    "heldout",
    "versions",
    "skipped_updates",
    "fault",
)
RECORDS = st.fixed_dictionaries(
    {
        "model": st.text(),
        "choice": st.dictionaries(st.sampled_from(["r", "lora_alpha", "learning_rate"]), JSON),
        "ids": st.lists(JSON, max_size=3),
        "data": st.text(),
        "status": st.sampled_from(["started", "stopped", "finished", "ended"]),
    },
    optional=dict.fromkeys([*FREE, "learning_rate", "peak_memory_gib", "number_format"], JSON),
)
STEPS = st.integers(0, 30)
NAN = {"model": "m", "choice": {"r": 1}, "ids": [], "data": "d", "status": "started"}
NAN |= {"learning_rate": float("nan")}


@given(
    record=RECORDS | JSON,
    state=st.fixed_dictionaries(
        {"global_step": STEPS | JSON, "max_steps": STEPS | JSON, "log_history": ENTRIES}
    )
    | JSON,
    has_adapter=st.booleans(),
)
@example(
    NAN, {"global_step": 1, "max_steps": 2, "log_history": [{"step": 1, "loss": 1e999}]}, False
)
def test_whatever_the_files_hold_the_table_has_a_row(tmp_path_factory, record, state, has_adapter):
    folder = tmp_path_factory.mktemp("any") / "runs" / "odd"
    folder.mkdir(parents=True)
    if has_adapter:
        (folder / trainer_files.ADAPTER).touch()
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_WORKSPACE", str(folder.parents[1]))
        with warnings.catch_warnings(action="error"):
            table = ledger.table()
        if not table.loc["odd", "status"].startswith("damaged: "):
            assert ledger.differences("odd", "odd") == []
            with contextlib.suppress(CourseError):  # it noted no loss
                assert ledger.curves("odd").axes[0].lines
    assert list(table.index) == ["odd"] and "odd" in table.to_html()


# ------------------------------------------------------------------------------------------- curves
def test_curves_say_only_in_what_the_runs_differ_and_draw_their_losses(both):
    axes = ledger.curves().axes[0]
    smooth, thin = axes.lines[0], axes.lines[1]
    assert [line.get_label() for line in axes.lines[::2]] == ["r = 4", "r = 2"]
    assert list(zip(thin.get_xdata(), thin.get_ydata(), strict=True)) == runs.losses(both[0])
    assert smooth.get_ydata()[-1] == pytest.approx(sum(thin.get_ydata()[-5:]) / 5)


def test_the_other_axes_end_where_the_training_ended(both):
    record = runs.read(both[0])
    for over, end in (("steps", 24), ("epochs", 3), ("tokens", record["tokens"])):
        line = ledger.curves(both[0].name, over=over).axes[0].lines[0]
        assert line.get_xdata()[-1] == end and line.get_label() == both[0].name
        assert list(line.get_xdata()) == sorted(line.get_xdata())


def test_a_log_is_read_as_far_as_it_holds_numbers():
    log = [{"step": 1, "loss": 2}, {"step": 2, "loss": "x"}, {"loss": 1.0}, 7, {"step": True}]
    log += [{"step": 3, "num_tokens": 5}, {"step": 4, "loss": True}, {"step": 5, "loss": 10**400}]
    log += [{"step": 6, "loss": float("inf"), "epoch": 0.5}]
    assert trainer_files.series(log, "loss") == [(1, 2.0), (6, float("inf"))]
    assert trainer_files.series(log, "epoch") == [(6, 0.5)]


def test_tokens_go_on_where_a_session_ended_and_are_spread_evenly_where_nobody_counted():
    log = [{"step": i, "num_tokens": n, "loss": 1} for i, n in enumerate((10, 30, 15, 20), 1)]
    state = {"log_history": log, "global_step": 4, "max_steps": 4}
    record = {"tokens": 80}
    assert records.tokens_at(record, state) == {0: 0, 1: 10, 2: 30, 3: 45, 4: 50}
    for entry in log:
        del entry["num_tokens"]
    assert records.tokens_at(record, state) == {0: 0, 1: 20, 2: 40, 3: 60, 4: 80}


def test_held_out_curves_need_points_and_say_who_has_none(both):
    for folder in both:
        looked(folder)  # never, as in a run of an older version
    with pytest.raises(CourseError, match="held-out loss"):
        ledger.curves(what="heldout_loss")
    looked(both[1], 6.0, 5.5, 5.4)
    change(both[0], "run.json", heldout=None)
    axes = ledger.curves(what="heldout_loss", over="tokens").axes[0]
    assert list(axes.lines[0].get_ydata()) == [6.0, 5.5, 5.4] and axes.lines[0].get_xdata()[0] == 0
    note = axes.get_title(loc="left").replace("\n", " ")
    assert note == f"{both[0].name} noted no held-out loss.", "what is not drawn is not compared"


def test_runs_that_skipped_other_numbers_of_updates_are_said_to(both):
    assert not ledger.curves().axes[0].get_title(loc="left")
    for folder, count in zip(both, (3, 0), strict=True):
        change(folder, "run.json", skipped_updates=count)
    said = f"pdates skipped: 3 in {both[0].name}, 0 in {both[1].name}"
    assert said in ledger.curves().axes[0].get_title(loc="left").replace("\n", " ")
    assert any(said in line for line in ledger.differences(*(f.name for f in both)))
    change(both[1], "run.json", skipped_updates=3)
    assert not ledger.curves().axes[0].get_title(loc="left")


def test_only_runs_of_the_newest_runs_model_are_drawn_unless_named(both):
    change(both[0], "run.json", model="another")
    assert len(ledger.curves().axes[0].lines) == 2
    axes = ledger.curves(*(folder.name for folder in both)).axes[0]
    assert "model = another" in axes.lines[0].get_label()
    assert "the losses do not compare" in axes.get_title(loc="left").replace("\n", " ")


@pytest.mark.parametrize("asked", [{"over": "minutes"}, {"what": "grad_norm"}, {"over": None}])
def test_an_unknown_axis_is_refused_with_those_there_are(both, asked):
    with pytest.raises(CourseError, match="There are: "):
        ledger.curves(**asked)


# -------------------------------------------------------------------------------------- differences
def test_a_run_does_not_differ_from_itself(both):
    assert ledger.differences(both[0].name, both[0].name) == []


def test_settings_versions_and_rows_are_told_apart_in_words(both):
    older, newer = both
    rows = json.loads((newer / "conversations.json").read_text(encoding="utf-8"))[:20]
    rows[0]["conversations"][0]["content"] += "!"
    (newer / "conversations.json").write_text(json.dumps(rows), encoding="utf-8")
    versions = runs.read(newer)["versions"] | {"peft": "0.1"}
    change(newer, "run.json", versions=versions, data="f" * 64, model_revision="abc")
    said = ledger.differences(older.name, newer.name)
    here = runs.read(older)["versions"]["peft"]
    assert said == [
        f"r is 4 in {older.name}, 2 in {newer.name}",
        f"revision of the base model is not given in {older.name}, abc in {newer.name}",
        f"rows: 32 in {older.name}, 20 in {newer.name}, 19 in common",
        f"peft is {here} in {older.name}, 0.1 in {newer.name}",
    ]


def test_another_order_of_the_same_rows_is_a_difference(both):
    older, newer = both
    rows = json.loads((newer / "conversations.json").read_text(encoding="utf-8"))[::-1]
    (newer / "conversations.json").write_text(json.dumps(rows), encoding="utf-8")
    change(newer, "run.json", data=selection.fingerprint(rows))
    assert "the same 32 rows stand in another order" in ledger.differences(older.name, newer.name)


# ------------------------------------------------------------------------------------ r and alpha
def test_the_map_holds_what_was_trained_and_leaves_the_rest_empty(both):
    older, newer = both
    choice = runs.read(newer)["choice"]
    change(newer, "run.json", choice=choice | {"lora_alpha": 16})
    looked(older, 6.0, 5.0, 5.5)
    looked(newer, 6.0, 5.8, 5.9)
    (image,) = ledger.r_by_alpha().axes[0].images
    low, high = image.get_array().filled(-1).tolist()  # r = 2 and r = 4, alpha = 8 and 16
    assert (low, high) == ([-1, 5.9], [5.5, -1])
    texts = [text.get_text() for text in ledger.r_by_alpha("best_heldout_loss").axes[0].texts]
    assert texts == ["5.800", "5.000"]


def test_the_map_of_trainings_in_stages_names_the_epochs_of_each(both):
    for folder in both:
        parts = [{"rows": 20, "epochs": 2}, {"rows": 12, "epochs": 1}]
        change(folder, "run.json", stages=parts)
    title = ledger.r_by_alpha("loss").axes[0].get_title(loc="left")
    assert "20 rows × 2, then 12 rows × 1 epochs" in title


def test_runs_that_share_less_than_the_rest_are_not_put_on_one_map(both):
    assert ledger.r_by_alpha("loss").axes[0].images
    for fields in ({"data": "0" * 64}, {"learning_rate": 1e-5}, {"heldout": {"sha": "other"}}):
        before = runs.read(both[0])
        change(both[0], "run.json", **fields)
        with pytest.raises(CourseError, match=r"earlier\.variant"):
            ledger.r_by_alpha("loss")
        (both[0] / "run.json").write_text(json.dumps(before), encoding="utf-8")


def test_one_run_or_none_makes_no_map(both, workspace):
    shutil.rmtree(both[0])
    with pytest.raises(CourseError, match="no two finished runs"):
        ledger.r_by_alpha("loss")
    shutil.rmtree(workspace)
    with pytest.raises(CourseError, match="no two finished runs"):
        ledger.r_by_alpha()
    with pytest.raises(CourseError, match="no finished run"):
        ledger.curves()


# ------------------------------------------------------------------------------------------- repeat
def test_a_run_trained_again_has_the_same_adapter_and_a_folder_of_its_own(
    both, use_tiny_llama, capsys, workspace
):
    older, _ = both
    latest = (workspace / "latest_run.json").read_text()
    change(older, "run.json", versions=runs.read(older)["versions"] | {"peft": "0.1"})
    before = sorted((file, file.stat().st_mtime_ns) for file in older.rglob("*"))
    again = one_run.repeat(older.name)
    assert again.folder.name == f"{older.name}-2" and again.record["status"] == "finished"
    tiny_run.assert_same_adapter(again, runs.Run(older, {}))
    said = capsys.readouterr().out
    assert "peft was 0.1 then, and is " in said and "has the same adapter, to the last bit" in said
    assert all(said.splitlines()[-2:]), "where nothing else differs, no empty line says so"
    assert sorted((file, file.stat().st_mtime_ns) for file in older.rglob("*")) == before
    assert (workspace / "latest_run.json").read_text() == latest


def test_stages_and_a_best_adapter_that_was_taken_are_repeated_too(use_tiny_llama, capsys):
    rows, choice = tiny_run.conversations(12), replace(SHORT, learning_rate=0.1)
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    parts = [stages.Stage(rows.select(range(8)), 2), stages.Stage(rows.select(range(8, 12)), 1)]
    run = stages.train(adapting.add_adapter(model, choice), tokenizer, parts, choice)
    run = best_adapter.take(run)
    again = one_run.repeat(run)
    tiny_run.assert_same_adapter(again, run)
    assert (again.record["stages"], again.record["best"]) == (
        run.record["stages"],
        run.record["best"],
    )
    assert ledger.differences(run, again) == []
    assert "has the same adapter" in capsys.readouterr().out


def test_a_run_of_the_students_own_that_was_stopped_stays_theirs(both, use_tiny_llama, workspace):
    older, _ = both
    own = older.with_name(f"{older.name}-2")
    shutil.copytree(older, own)
    change(own, "run.json", status="stopped", step=20, beside=False)
    before = {file: file.read_bytes() for file in own.rglob("*") if file.is_file()}
    again = one_run.repeat(older.name)
    assert again.folder.name == f"{older.name}-3" and again.record["beside"]
    assert {file: file.read_bytes() for file in own.rglob("*") if file.is_file()} == before
    # One that was stopped beside it goes on.
    change(again.folder, "run.json", status="stopped", step=24)
    rows = selection.of_run(again)
    assert runs.folder_for(tiny_run.CHOICE, rows, beside=True) == again.folder
    assert runs.folder_for(tiny_run.CHOICE, rows) == own


def test_a_run_on_a_base_in_16_bits_is_not_trained_again_on_one_in_4(both):
    change(both[0], "run.json", load_in_4bit=False)
    with pytest.raises(CourseError, match="base model in 16 bits"):
        one_run.repeat(both[0].name)


def test_edited_conversations_or_an_unfinished_run_are_not_trained_again(both, workspace):
    older, newer = both
    rows = json.loads((older / "conversations.json").read_text(encoding="utf-8"))
    rows[3]["conversations"][1]["content"] = "edited"
    (older / "conversations.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(CourseError, match="does not hold what the run was trained on"):
        one_run.repeat(older.name)
    change(newer, "run.json", status="started")
    with pytest.raises(CourseError, match="is not finished"):
        one_run.repeat(newer.name)
    assert names_in(workspace) == {older.name, newer.name}


# ------------------------------------------------------------------------------------------- delete
def test_a_deleted_run_is_gone_and_the_others_are_as_they_were(both, workspace, capsys):
    older, newer = both
    mib = sum(file.stat().st_size for file in older.rglob("*") if file.is_file()) / 2**20
    one_run.delete(older.name)
    assert f"{mib:.1f} MiB" in capsys.readouterr().out
    assert names_in(workspace) == {newer.name} and list(ledger.table().index) == [newer.name]
    assert runs.latest().folder == newer


def test_the_latest_run_goes_only_when_that_is_said(both):
    older, newer = both
    with pytest.raises(CourseError, match="even_latest=True"):
        one_run.delete(newer.name)
    assert newer.is_dir()
    one_run.delete(newer.name, even_latest=True)
    assert runs.latest().folder == older, "the newest one left"


def claimed(folder: Path) -> subprocess.Popen:
    """Another process that trains in a folder until it is sent a line."""
    code = f"import sys; sys.path.insert(0, {str(KIT)!r})\nfrom helpers import claims\nfrom pathlib import Path\n"
    code += (
        f"with claims.claim(Path({str(folder)!r})):\n    print('has it', flush=True)\n    input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "has it\n"
    return other


def refuses_while_it_is_trained(folder: Path, place: Path) -> None:
    change(folder, "run.json", status="started")
    with claimed(place) as other:
        assert ledger.table().loc[folder.name, "status"] == "being trained"
        with pytest.raises(CourseError, match=f"process {other.pid}"):
            one_run.delete(folder.name)
        other.communicate("\n")
    assert not (place / claims.NAME).exists()
    one_run.delete(folder.name)
    assert not folder.exists()


def test_a_run_that_another_process_trains_is_not_deleted(both):
    refuses_while_it_is_trained(both[0], both[0])


def test_a_run_on_drive_is_not_deleted_while_it_trains_on_this_machines_disk(
    both, workspace, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("COURSE_LOCAL", str(tmp_path / "local"))
    with drives.in_memory(monkeypatch) as drive:
        shutil.copytree(workspace, drive / "course")
        monkeypatch.setenv("COURSE_WORKSPACE", str(drive / "course"))
        folder = drive / "course" / "runs" / both[0].name
        place = copies.place(folder)
        place.mkdir(parents=True)
        refuses_while_it_is_trained(folder, folder)
    assert "On Drive they are in the trash" in capsys.readouterr().out


def test_a_damaged_folder_can_be_deleted(both):
    (both[0] / "run.json").write_bytes(b"{")
    one_run.delete(both[0].name)
    assert not both[0].exists()


def test_a_machine_that_goes_away_while_deleting_leaves_no_half_of_a_run(both):
    older, newer = both
    code = (
        f"import os, shutil, sys; sys.path.insert(0, {str(KIT)!r})\nfrom helpers import one_run\n"
    )
    code += f"shutil.rmtree = lambda *_: os.kill(os.getpid(), 9)\none_run.delete({older.name!r})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not older.exists() and list(older.parent.glob(f"{one_run.ASIDE}/*/run.json"))
    assert list(ledger.table().index) == [newer.name]
    one_run.delete(newer.name, even_latest=True)
    assert not list(older.parent.iterdir()), "what was left went too"


def test_a_link_is_not_followed(both, tmp_path):
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    (both[0].parent / "linked").symlink_to(kept)
    with pytest.raises(CourseError, match="is a link"):
        one_run.delete("linked")
    (both[0] / "inside").symlink_to(kept)
    one_run.delete(both[0].name)
    assert (kept / "mine.txt").read_text() == "mine"


@given(
    st.text(max_size=20)
    | st.sampled_from(
        ["..", ".", "", "../runs", "/", "r4-alpha8/", "./r4-alpha8", "r4-alpha8/best"]
    )
    | st.sampled_from([None, 4, b"r4-alpha8", Path("r4-alpha8"), ["r4-alpha8"], "*", "a" * 5000])
)
def test_a_name_that_is_not_in_the_list_deletes_nothing(two, name):
    before = sorted(two.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_WORKSPACE", str(two))
        with pytest.raises(CourseError, match="There is no run"):
            one_run.delete(name, even_latest=True)
        with pytest.raises(CourseError, match="There is no run"):
            one_run.repeat(name)
    assert sorted(two.rglob("*")) == before


def test_a_run_of_another_workspace_is_not_taken_for_one_of_this(both, trained):
    assert trained.run.folder.name == both[0].name
    with pytest.raises(CourseError, match="There is no run"):
        one_run.delete(trained.run)
    assert both[0].is_dir() and trained.run.folder.is_dir()
    one_run.delete(trained.run._replace(folder=both[0]))
    assert not both[0].exists()
