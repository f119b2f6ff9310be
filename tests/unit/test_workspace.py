"""The workspace: where it is, and that nothing in it is ever half-written."""

import sys
import types
from pathlib import Path

import drives
import pytest
from full_disk import files_limited_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import workspace as places
from helpers.choice import saved_choice
from helpers.errors import CourseError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('aé中\n"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


def refusal(action, *arguments) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments)
    return str(caught.value)


# --------------------------------------------------------------------------------------- where it is
def test_the_variable_names_the_workspace_which_is_made(workspace):
    assert not workspace.exists()
    assert places.root() == workspace
    assert workspace.is_dir()
    assert places.path("runs", "first") == workspace / "runs" / "first"


@pytest.mark.parametrize(
    "form",
    ["work", "./work", '"work"', "'my work'", "~/work", "{}/some where/work", '"{}/My Course"'],
)
def test_what_was_written_is_read_back_whatever_the_form_of_the_variable(
    tmp_path, monkeypatch, form
):
    """`relative_workspace.py` and `quoted_workspace.py` among the reports, and more."""
    from helpers import runs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_WORKSPACE", form.format(tmp_path))
    folder = places.path("runs", "r4-alpha4")
    folder.mkdir(parents=True)
    record = {"status": "finished", "model": "smollm2-135m"}
    runs.write(folder, record)
    assert (folder / "run.json").is_file()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert runs.read(folder) == record
    assert places.path("runs", "r4-alpha4") == folder
    assert not [p for p in tmp_path.rglob("*") if "'" in p.name or '"' in p.name]


def test_a_tilde_in_the_variable_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_WORKSPACE", "~/course")
    assert places.root() == tmp_path / "course"


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A kit that has no workspace yet, and nothing names another."""
    monkeypatch.delenv("COURSE_WORKSPACE", raising=False)
    monkeypatch.setattr(places, "KIT", tmp_path / "kit")
    monkeypatch.setattr(places, "DRIVE", tmp_path / "drive" / "MyDrive")
    monkeypatch.setattr(places, "_used", set())
    return tmp_path / "kit"


@pytest.mark.parametrize("unset", [None, ""])
def test_without_the_variable_a_mounted_drive_is_used(kit, monkeypatch, unset):
    if unset is not None:
        monkeypatch.setenv("COURSE_WORKSPACE", unset)
    assert places.root() == kit / "workspace" and not places.on_drive()
    with drives.in_memory(monkeypatch) as drive:
        assert places.root() == drive / "lora-course" and places.on_drive()


def test_a_folder_of_drives_name_on_this_machines_disk_is_not_drive(kit):
    places.DRIVE.mkdir(parents=True)
    assert not places.mounted()
    assert places.root() == kit / "workspace"


def test_a_drive_that_goes_away_is_not_replaced_by_another_workspace_in_silence(kit, monkeypatch):
    with drives.in_memory(monkeypatch):
        places.write_json("choice.json", {"r": 8})
        assert places.local() == kit / "workspace"
    assert "Drive is not mounted" in refusal(places.root)
    assert "Drive is not mounted" in refusal(places.read_json, "choice.json")
    assert not places.DRIVE.exists()
    assert places.local() == kit / "workspace"


def test_a_connection_to_drive_that_is_lost_is_a_drive_that_is_gone(kit, tmp_path, monkeypatch):
    with drives.of_size(monkeypatch, tmp_path / "drive", 1):
        assert places.mounted() and places.on_drive()
        drives.unmount(tmp_path / "drive")
        assert not places.mounted()
        drives.lose_connection(tmp_path / "drive")
        assert not places.mounted()
        message = refusal(places.write_json, "choice.json", {})
        assert "Drive is not mounted" in message and "move" not in message


def test_shared_drives_and_folders_that_lead_to_drive_are_on_drive(kit, tmp_path, monkeypatch):
    with drives.in_memory(monkeypatch) as drive:
        assert places.is_on_drive(drive.parent / "Shareddrives" / "class" / "course")
        (tmp_path / "link").symlink_to(drive)
        assert places.is_on_drive(tmp_path / "link" / "course")
        assert not places.is_on_drive(tmp_path / "course")


def test_models_are_on_this_machines_disk_wherever_the_workspace_is(workspace, kit, monkeypatch):
    monkeypatch.setenv("COURSE_WORKSPACE", str(workspace))
    assert places.models() == workspace / "models"
    with drives.in_memory(monkeypatch) as drive:
        monkeypatch.setenv("COURSE_WORKSPACE", str(drive / "course"))
        assert places.models() == kit / "workspace" / "models"
        monkeypatch.setenv("COURSE_LOCAL", str(workspace / "here"))
        assert places.models() == workspace / "here" / "models"


def test_the_variable_goes_before_a_mounted_drive(workspace, monkeypatch):
    with drives.in_memory(monkeypatch):
        assert places.root() == workspace


def test_the_default_folder_is_one_that_git_ignores():
    assert (places.KIT / "helpers" / "presets.py").is_file()
    assert "workspace/" in (places.KIT / ".gitignore").read_text().splitlines()


def test_a_workspace_below_a_file_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("my notes")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "course"):
        monkeypatch.setenv("COURSE_WORKSPACE", str(folder))
        message = refusal(places.root)
        assert str(folder) in message
        assert "COURSE_WORKSPACE" in message
    assert "cannot be made" in refusal(places.make, tmp_path / "taken" / "runs")
    assert (tmp_path / "taken").read_text() == "my notes"


def test_the_description_says_where_the_workspace_is(workspace):
    assert places.describe() == f"Workspace: {workspace}"


def test_on_colab_the_description_warns_that_the_folder_goes_with_the_machine(monkeypatch):
    monkeypatch.setattr(places, "root", lambda: Path("/content/lora-course-v1/workspace"))
    assert "gone with this machine" in places.describe()
    assert "keep_my_work_on_google_drive" in places.describe()
    assert "bundle.as_zip" in places.describe()
    monkeypatch.setattr(places, "root", lambda: places.DRIVE / "lora-course")
    assert places.describe() == "Workspace: /content/drive/MyDrive/lora-course"


@pytest.fixture
def colab_drive(monkeypatch):
    """A module where Colab has its own: what it does is set by the test."""
    google, colab, drive = (types.ModuleType(n) for n in ("google", "google.colab", "drive"))
    google.colab, colab.drive = colab, drive
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    return drive


def test_drive_is_mounted_only_where_it_is_asked_for(workspace, colab_drive):
    mounted = []
    colab_drive.mount = mounted.append
    places.describe()
    assert not mounted
    places.describe(on_drive=True)
    assert mounted == ["/content/drive"]


def test_what_was_made_before_drive_was_mounted_is_named(kit, monkeypatch, capsys):
    for name in ("runs", "models", "while-training"):
        (kit / "workspace" / name).mkdir(parents=True)
    places.describe()
    assert capsys.readouterr().out == ""
    with drives.in_memory(monkeypatch):
        places.describe()
    assert "not on it: runs in" in capsys.readouterr().out


def test_a_folder_in_drives_way_is_named_where_google_takes_it_for_drive(kit, colab_drive):
    places.DRIVE.mkdir(parents=True)
    colab_drive.mount = lambda where: print("Drive already mounted")
    message = refusal(places.describe, True)
    assert "Drive is not mounted" in message
    assert f"!mv {places.DRIVE.parent} " in message


def test_a_refused_drive_says_how_to_go_on_without(workspace, colab_drive):
    def refused(folder):
        raise ValueError("mount failed")

    colab_drive.mount = refused
    message = refusal(places.describe, True)
    assert "mount failed" in message and "untick keep_my_work_on_google_drive" in message


def test_without_colab_the_drive_question_changes_nothing(workspace):
    assert places.describe(on_drive=True) == places.describe()


# ------------------------------------------------------------------------------------------ JSON files
@given(json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_again(workspace, content):
    assert places.write_json("some.json", content).name == "some.json"
    assert places.read_json("some.json") == content


def test_folders_on_the_way_are_made(workspace):
    assert places.write_json("runs/first/run.json", {}) == workspace / "runs" / "first" / "run.json"


def test_a_missing_file_is_none(workspace):
    assert places.read_json("choice.json") is None


def test_letters_outside_ascii_stay_readable_in_the_file(workspace):
    assert "你好" in places.write_json("some.json", ["你好"]).read_text(encoding="utf-8")


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(workspace):
    places.write_json("choice.json", {"r": 8})
    with files_limited_to(1000):
        message = refusal(places.write_json, "choice.json", list(range(10_000)))
    assert f"{workspace / 'choice.json'} could not be written" in message
    assert "Free some space" in message
    assert places.read_json("choice.json") == {"r": 8}
    assert [file.name for file in workspace.iterdir()] == ["choice.json"]


def test_what_json_cannot_hold_leaves_the_old_file_and_nothing_else(workspace):
    places.write_json("choice.json", {"r": 8})
    with pytest.raises(TypeError):
        places.write_json("choice.json", {"r": object()})
    assert places.read_json("choice.json") == {"r": 8}
    assert [file.name for file in workspace.iterdir()] == ["choice.json"]


def test_a_folder_where_the_file_should_be_is_refused(workspace):
    (workspace / "choice.json").mkdir(parents=True)
    assert str(workspace / "choice.json") in refusal(places.write_json, "choice.json", {})
    assert [file.name for file in workspace.iterdir()] == ["choice.json"]


def test_a_file_where_a_folder_should_be_is_refused(workspace):
    places.root()
    (workspace / "runs").write_text("my notes")
    message = refusal(places.write_json, "runs/first/run.json", {})
    assert str(workspace / "runs" / "first" / "run.json") in message
    assert (workspace / "runs").read_text() == "my notes"


@pytest.mark.parametrize("content", [b"", b'{"r": 1', b"r = 16", '{"r": "é"}'.encode("latin-1")])
def test_a_damaged_file_is_refused_and_kept(workspace, content):
    places.root()
    (workspace / "choice.json").write_bytes(content)
    message = refusal(places.read_json, "choice.json")
    assert f"{workspace / 'choice.json'} is not readable as JSON" in message
    assert (workspace / "choice.json").read_bytes() == content


# ---------------------------------------------------------------------------------------------- space
def test_too_little_space_is_refused_with_the_numbers(workspace):
    message = refusal(places.need_space, 1e9, "the small model")
    assert "the small model needs 1000000000.0" in message
    assert str(workspace) in message


def test_enough_space_says_nothing(workspace, capsys):
    places.need_space(0, "nothing")
    assert capsys.readouterr().out == ""


def test_a_workspace_on_a_drive_that_is_not_mounted_is_refused_and_nothing_is_made(
    tmp_path, monkeypatch
):
    drive = tmp_path / "drive" / "MyDrive"
    monkeypatch.setattr(places, "DRIVE", drive)
    monkeypatch.setenv("COURSE_WORKSPACE", str(drive / "my course"))
    assert "Drive is not mounted" in refusal(places.root)
    assert "Drive is not mounted" in refusal(places.make, drive / "my course" / "runs")
    assert not drive.parent.exists()
    drive.mkdir(parents=True)
    assert "Drive is not mounted" in refusal(places.root)
    assert not any(drive.iterdir())


def test_a_file_that_windows_marked_is_read_and_a_folder_in_its_place_is_named(workspace):
    workspace.mkdir()
    (workspace / "choice.json").write_text('{"r": 4}', encoding="utf-8-sig")
    assert saved_choice().r == 4
    (workspace / "choice.json").unlink()
    (workspace / "choice.json").mkdir()
    assert "choice.json is not readable" in refusal(saved_choice)
