"""The course's environment variables mean the same however they are written."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import settings, workspace
from helpers.errors import CourseError

KIT = Path(__file__).parents[2]


@pytest.mark.parametrize("written", ["a b", '"a b"', "'a b'", ' "a b" ', "“a b”", "\"'a b'\""])
def test_quotes_and_spaces_around_a_value_are_taken_off(written, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", written)
    assert settings.text("COURSE_MODEL") == "a b"


@pytest.mark.parametrize("written", ['"half', "half'", "“half", "half”"])
def test_half_a_pair_of_quotes_is_refused_by_name(written, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", written)
    with pytest.raises(CourseError, match="COURSE_MODEL.*quote at one end"):
        settings.text("COURSE_MODEL")


def test_a_variable_that_is_not_set_or_holds_nothing_is_empty(monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    assert settings.text("COURSE_MODEL") == ""
    monkeypatch.setenv("COURSE_MODEL", ' "" ')
    assert settings.text("COURSE_MODEL") == ""
    assert settings.path("COURSE_MODEL") is None


def test_a_relative_path_stays_the_same_place_after_a_change_of_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_WORKSPACE", "work")
    workspace.write_json("choice.json", {"r": 4})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert workspace.read_json("choice.json") == {"r": 4}
    assert workspace.root() == tmp_path / "work"
    assert os.environ["COURSE_WORKSPACE"] == str(tmp_path / "work")


def test_home_and_variables_are_filled_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_WORKSPACE", '"~/My Course"')
    assert workspace.root() == tmp_path / "My Course"
    monkeypatch.setenv("COURSE_WORKSPACE", "$HOME/other")
    assert workspace.root() == tmp_path / "other"


def test_the_folder_of_a_user_who_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("COURSE_WORKSPACE", "~nobody-of-this-name/work")
    with pytest.raises(CourseError, match="nobody-of-this-name"):
        settings.path("COURSE_WORKSPACE")


@given(
    name=st.text("abc ~$'\"ä中", min_size=1, max_size=12).filter(str.strip),
    quotes=st.sampled_from(["", '"', "'"]),
)
def test_what_is_written_in_a_workspace_of_any_name_is_read_back(name, quotes, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("any"))
        patch.setenv("HOME", os.getcwd())
        patch.setenv("COURSE_WORKSPACE", f"{quotes}{name}{quotes}")
        try:
            file = workspace.write_json("runs/one/run.json", {"status": "started"})
        except CourseError:
            return
        assert workspace.read_json("runs/one/run.json") == {"status": "started"}
        assert '"' not in (file.parts[-4][0], file.parts[-4][-1])


def test_no_helper_reads_a_variable_of_the_course_in_another_way():
    """Such as os.environ.get("COURSE_MODEL"): quotes would be a part of it."""
    reads = re.compile(
        r"""(?:environ\.get\(|getenv\(|environ\[)\s*["']COURSE_\w+["'](?!\]\s*=[^=])"""
    )
    for file in KIT.glob("helpers/**/*.py"):
        assert not reads.findall(file.read_text(encoding="utf-8")), file.name
    assert reads.findall('if os.environ.get("COURSE_T4") == "1":')
    assert not reads.findall('os.environ["COURSE_T4"] = "1"')


@pytest.mark.parametrize(
    "written", ["https://drive.google.com/x", "C:\\Users\\me", "$NOT_SET_HERE/ws", "${NOT_SET}/ws"]
)
def test_what_is_no_path_of_this_machine_is_refused(written, monkeypatch):
    monkeypatch.setenv("COURSE_WORKSPACE", written)
    with pytest.raises(CourseError, match="is no folder or file of this machine"):
        settings.path("COURSE_WORKSPACE")
