"""A run as a zip: whole on another machine, and nothing but such a zip is taken."""

import json
import re
import shutil
import struct
import zipfile
from pathlib import Path

import course_on_drive
import pytest
from full_disk import files_limited_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import bundle, copies, manifests, runs
from helpers import workspace as places
from helpers.errors import CourseError


def refusal(action, *arguments) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


@pytest.fixture(scope="session")
def packed(trained, tmp_path_factory):
    """The zip of a finished run, with answers, made on another machine."""
    folder = tmp_path_factory.mktemp("another machine, 別")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_WORKSPACE", str(folder))
        shutil.copytree(trained.run.folder, folder / "runs" / trained.run.folder.name)
        run = runs.Run(folder / "runs" / trained.run.folder.name, trained.run.record)
        (run.folder / "pred.json").write_text('[{"answer": "你好"}]', encoding="utf-8")
        return bundle.as_zip(run)


def rewritten(packed: Path, to: Path, change) -> Path:
    """The same zip with its parts changed: ``change`` gets and returns a dict from name to bytes."""
    with zipfile.ZipFile(packed) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in change(parts).items():
            archive.writestr(name, content)
    return to


def listed_too(parts: dict, name: str, content: bytes = b"x") -> dict:
    """Parts of a zip with one more, which the list names with its true hash."""
    scratch = json.loads(parts[bundle.LIST])
    digest = manifests.hashlib.sha256(content).hexdigest()
    scratch["files"][name] = [len(content), digest]
    return parts | {name: content, bundle.LIST: json.dumps(scratch).encode()}


def test_a_finished_run_comes_back_whole_and_is_the_latest(packed, workspace, trained, capsys):
    run = bundle.from_zip(packed)
    assert run.folder == workspace / "runs" / trained.run.folder.name
    assert f"The run {run.folder.name} is here now." in capsys.readouterr().out
    assert runs.latest() == run and run.record == trained.run.record
    assert runs.losses(run.folder) == runs.losses(trained.run.folder)
    before = {n: c for n, c in contents(trained.run.folder).items() if "checkpoint" not in n}
    found = contents(run.folder)
    assert json.loads(found.pop("pred.json"))[0]["answer"] == "你好"
    assert found == before


def test_its_size_is_printed_and_no_checkpoint_of_a_finished_run_is_inside(
    workspace, trained, capsys
):
    file = bundle.as_zip(trained.run)
    assert file == workspace / f"{trained.run.folder.name}.zip"
    assert f"{file.stat().st_size / 1e6:.1f} MB" in capsys.readouterr().out
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert not [name for name in archive.namelist() if "checkpoint" in name]
    assert not list(workspace.glob("*.partial"))


def test_an_unfinished_run_takes_its_newest_checkpoint_along_to_go_on(
    interrupted, tmp_path, monkeypatch
):
    file = bundle.as_zip(runs.Run(interrupted, runs.read(interrupted)))
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "another machine"))
    run = bundle.from_zip(file)
    assert runs.newest_checkpoint(run.folder).name == "checkpoint-20"
    assert not (run.folder / "checkpoint-15").exists()
    assert not (run.folder / "training.lock").exists()


@pytest.mark.usefixtures("use_tiny_llama")
def test_a_zip_of_a_run_that_went_on_since_changes_nothing(interrupted, resume, capsys):
    file = bundle.as_zip(runs.Run(interrupted, runs.read(interrupted)))
    assert bundle.from_zip(file).folder == interrupted  # as far as the zip
    run, _ = resume()
    capsys.readouterr()
    before = contents(run.folder)
    assert bundle.from_zip(file) == run == runs.latest()
    assert "further than in the zip: after step 24" in capsys.readouterr().out
    assert contents(run.folder) == before and len(list(interrupted.parent.iterdir())) == 1


def test_of_a_run_that_lost_its_checkpoints_the_one_in_the_zip_comes(interrupted):
    file = bundle.as_zip(runs.Run(interrupted, runs.read(interrupted)))
    for checkpoint in interrupted.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    run = bundle.from_zip(file)
    assert run.folder != interrupted and runs.newest_checkpoint(run.folder).name == "checkpoint-20"


@pytest.mark.usefixtures("use_tiny_llama")
def test_of_two_states_of_a_run_the_further_one_goes_on(interrupted, resume, tmp_path, monkeypatch):
    further = bundle.as_zip(runs.Run(interrupted, runs.read(interrupted)))
    further = further.rename(further.with_name("further.zip"))
    shutil.rmtree(interrupted / "checkpoint-20")
    record = runs.read(interrupted)
    runs.write(interrupted, record | {"step": 15, "checkpoints": {}})
    shorter = bundle.as_zip(runs.Run(interrupted, runs.read(interrupted)))
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "another machine"))
    first, second = bundle.from_zip(shorter), bundle.from_zip(further)
    assert first.folder != second.folder
    run, steps = resume()
    assert run.folder == second.folder and steps == 4


def test_a_stopped_run_with_a_damaged_adapter_is_not_packed_and_its_zip_brings_a_whole_one(
    workspace, trained
):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    folder = workspace / "runs" / trained.run.folder.name
    runs.write(folder, trained.run.record | {"status": "stopped"})
    good = bundle.as_zip(folder.name)
    adapter = folder / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"?")
    assert "adapter_model.safetensors is another one or damaged" in refusal(
        bundle.as_zip, folder.name
    )
    whole = bundle.from_zip(good)
    assert whole.folder != folder and bundle.as_zip(whole)
    shutil.copy(whole.folder / adapter.name, adapter)
    (folder / "adapter_config.json").write_text('{"r": 4')
    assert "adapter_config.json cannot be read" in refusal(bundle.as_zip, folder.name)


def test_half_of_an_unpacked_zip_is_no_run(packed, workspace, trained):
    bundle.from_zip(packed).folder.rename(workspace / "runs" / bundle.PARTIAL)
    (workspace / "latest_run.json").unlink()
    assert runs.latest_name() is None and not runs.latest()


@pytest.fixture
def on_drive(killed, tmp_path, monkeypatch):
    """A run in training with the workspace on Drive: its folder there, and the one on this machine."""
    with course_on_drive.mounted(monkeypatch, tmp_path):
        home = places.make(places.path("runs", "r4-alpha8"))
        local = course_on_drive.put_run(killed, home, 15, 20)
        (local / "best").mkdir(exist_ok=True)
        (local / "best" / "best.json").write_text('{"step": 10, "loss": 2.5}')
        copies.announce(local, home)
        yield home, local


@pytest.mark.parametrize("machine", ["same", "new"])
def test_an_unfinished_run_on_drive_takes_checkpoint_and_best_adapter_along(
    on_drive, tmp_path, monkeypatch, machine
):
    home, local = on_drive
    before = {name: contents(local / name) for name in ("best", "checkpoint-20")}
    if machine == "new":
        copies.copy(local, home)
        shutil.rmtree(places.local())
    file = bundle.as_zip(runs.Run(home, runs.read(home)))
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "another machine"))
    folder = bundle.from_zip(file).folder
    assert {name: contents(folder / name) for name in before} == before
    assert runs.newest_checkpoint(folder).name == "checkpoint-20"
    assert not (folder / "checkpoint-15").exists()


def test_a_run_that_ended_while_drive_was_away_is_packed_as_it_ended(on_drive, trained):
    home, local = on_drive
    unfinished = runs.Run(home, runs.read(home))
    shutil.copytree(trained.run.folder, local, dirs_exist_ok=True)
    with zipfile.ZipFile(bundle.as_zip(unfinished)) as archive:
        assert json.loads(archive.read("run.json"))["status"] == "finished"
        assert {"adapter_model.safetensors", "best/best.json"} <= set(archive.namelist())
        assert not [name for name in archive.namelist() if "checkpoint" in name]


def test_an_unfinished_run_without_a_whole_checkpoint_is_not_packed(on_drive, workspace):
    home, local = on_drive
    copies.copy(local, home)
    (home / "kept-a" / "checkpoint" / "optimizer.pt").write_bytes(b"")
    shutil.rmtree(places.local())
    message = refusal(bundle.as_zip, runs.Run(home, runs.read(home)))
    assert "no whole checkpoint" in message and "trains it again" in message
    assert not list(places.local().glob("*.zip"))


def test_a_run_that_is_here_already_stays_and_another_one_gets_its_own_name(
    packed, workspace, tmp_path, capsys
):
    run = bundle.from_zip(packed)
    before = contents(run.folder)
    assert bundle.from_zip(packed).folder == run.folder
    assert "is here already" in capsys.readouterr().out
    runs.write(run.folder, run.record | {"data": "other rows"})
    second = bundle.from_zip(packed)
    assert second.folder.name == f"{run.folder.name}-2" and runs.latest() == second
    runs.write(run.folder, run.record)
    assert contents(run.folder).keys() == before.keys()


@pytest.mark.parametrize(
    "name",
    [
        *("../choice.json", "/tmp/x", "best/../../choice.json", "..", "C:\\x", "a\\b", ".hidden"),
        *(
            "runs/x",
            "checkpoint-0/x",
            "checkpoint-5/a/b",
            "best/",
            "é",
            "a\nb",
            "latest_run.json/x",
        ),
    ],
)
def test_a_zip_that_lists_a_file_elsewhere_writes_nothing(packed, workspace, tmp_path, name):
    bad = rewritten(packed, tmp_path / "bad.zip", lambda parts: listed_too(parts, name))
    outside = contents(tmp_path)
    assert "not a whole zip of a run" in refusal(bundle.from_zip, bad)
    assert contents(tmp_path) == outside
    assert not any((workspace / "runs").iterdir())


@given(st.text("ab./\\0-é:", min_size=1, max_size=12))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_zip_names_nothing_is_written_outside_its_run(packed, workspace, tmp_path, name):
    with zipfile.ZipFile(packed) as archive:
        parts = {n: archive.read(n) for n in ("run.json", "adapter_config.json", bundle.LIST)}
    listed = json.loads(parts[bundle.LIST])
    listed["files"] = {n: listed["files"][n] for n in ("run.json", "adapter_config.json")}
    parts[bundle.LIST] = json.dumps(listed).encode()
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        for one, content in listed_too(parts, name).items():
            archive.writestr(one, content)
    outside = {p for p in tmp_path.rglob("*") if not p.is_relative_to(workspace / "runs")}
    try:
        folder = bundle.from_zip(bad).folder
        assert folder.parent == workspace / "runs" and len(contents(folder)) == 3
        shutil.rmtree(folder)
    except CourseError:
        assert not any((workspace / "runs").iterdir())
    assert {
        p for p in tmp_path.rglob("*") if not p.is_relative_to(workspace / "runs")
    } == outside | {
        workspace,
    }


CHANGES = {
    "no list": lambda parts: {n: c for n, c in parts.items() if n != bundle.LIST},
    "one file more": lambda parts: parts | {"notes.txt": b"mine"},
    "one file less": lambda parts: {n: c for n, c in parts.items() if n != "tokenizer.json"},
    "another adapter": lambda parts: parts | {"adapter_model.safetensors": b"0" * 9},
    "a longer file": lambda parts: parts | {"run.json": parts["run.json"] + b" "},
    "a list that is none": lambda parts: parts | {bundle.LIST: b"[]"},
    "a list cut off": lambda parts: parts | {bundle.LIST: parts[bundle.LIST][:-9]},
    "a list in other letters": lambda parts: parts | {bundle.LIST: b"\xff\xfe\x00"},
    "a deep list": lambda parts: parts | {bundle.LIST: b"[" * 100_000},
    "an endless list": lambda parts: parts | {bundle.LIST: b" " * 2**21},
    "a name elsewhere": lambda parts: (
        parts | {bundle.LIST: re.sub(b'"name": "[^"]*"', b'"name": "../../x"', parts[bundle.LIST])}
    ),
    "a record that is none": lambda parts: listed_too(parts, "run.json", b"[]"),
    "a record without a choice": lambda parts: listed_too(parts, "run.json", b'{"model": "a"}'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_the_zip_of_a_run_as_it_was_made_is_refused(
    packed, workspace, tmp_path, change
):
    bad = rewritten(packed, tmp_path / "bad.zip", CHANGES[change])
    message = refusal(bundle.from_zip, bad)
    assert "not a whole zip of a run" in message and "Download it again" in message
    assert not any((workspace / "runs").iterdir())
    assert not (workspace / "latest_run.json").exists()


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_zip_that_was_cut_off_is_refused(packed, workspace, tmp_path, share):
    content = packed.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(len(content) * share)])
    assert "not a whole zip" in refusal(bundle.from_zip, tmp_path / "cut.zip")
    assert not any((workspace / "runs").iterdir())


def test_a_flipped_bit_anywhere_is_found_or_harmless(packed, workspace, tmp_path):
    content = packed.read_bytes()
    for place in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[place] ^= 16
        (tmp_path / "bit.zip").write_bytes(damaged)
        try:
            shutil.rmtree(bundle.from_zip(tmp_path / "bit.zip").folder)
        except CourseError:
            assert not any((workspace / "runs").iterdir())


def test_packed_tightly_twice_listed_or_encrypted_it_is_refused(packed, workspace, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    bomb, twice, locked = (tmp_path / f"{name}.zip" for name in ("bomb", "twice", "locked"))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in listed_too(parts, "README.md", b"0" * 10**7).items():
            archive.writestr(name, content)
    shutil.copy(packed, twice)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("run.json", parts["run.json"])
    content = bytearray(packed.read_bytes())
    for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = content.find(mark)
        while place >= 0:
            flags = struct.unpack_from("<H", content, place + at)[0]
            struct.pack_into("<H", content, place + at, flags | 1)
            place = content.find(mark, place + 4)
    locked.write_bytes(content)
    for bad in (bomb, twice, locked):
        assert "not a whole zip of a run" in refusal(bundle.from_zip, bad)
    assert not any((workspace / "runs").iterdir())


def test_a_run_may_be_named_and_what_is_none_is_said(workspace, trained):
    shutil.copytree(trained.run.folder, workspace / "runs" / "mine")
    assert bundle.as_zip("mine").exists()
    for wrong in ("yours", None, 3):
        assert "There is no run" in refusal(bundle.as_zip, wrong)
        if not isinstance(wrong, str):
            assert "is no path of a zip" in refusal(bundle.from_zip, wrong)
    (workspace / "runs" / "mine" / "run.json").write_text("[]")
    assert "is not the record of a run" in refusal(bundle.as_zip, "mine")


def test_a_folder_that_was_made_for_a_run_and_is_empty_is_taken(packed, workspace, trained):
    (workspace / "runs" / trained.run.folder.name).mkdir(parents=True)
    assert bundle.from_zip(packed).folder.name == trained.run.folder.name


def test_a_missing_zip_a_folder_and_a_gone_run_are_said(workspace, tmp_path, trained):
    assert "could not be unpacked" in refusal(bundle.from_zip, tmp_path / "none.zip")
    assert "could not be unpacked" in refusal(bundle.from_zip, tmp_path)
    gone = runs.Run(tmp_path / "gone", trained.run.record)
    assert "could not be packed" in refusal(bundle.as_zip, gone)
    assert not list(workspace.glob("*.zip"))


def test_a_full_disk_leaves_neither_half_a_zip_nor_half_a_run(packed, workspace, trained):
    with files_limited_to(3000):
        assert "could not be packed" in refusal(bundle.as_zip, trained.run)
        assert "could not be unpacked" in refusal(bundle.from_zip, packed)
    assert [p.name for p in places.root().rglob("*")] == ["runs"]
