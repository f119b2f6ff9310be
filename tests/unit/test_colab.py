"""`make colab`: its command lines, and what it makes of failures. Google's command is a script here: an account
and a machine of Google's are not to be had in a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
from notebooks import release

# Notes its arguments; "executes" a notebook as the real one does, into NAME_output.ipynb beside it.
COLAB = """\
import json, os, sys, time
from pathlib import Path
with open(os.environ["NOTED"], "a") as noted:
    noted.write(json.dumps(sys.argv[1:]) + "\\n")
mode = os.environ["MODE"]
if sys.argv[1] == "new":
    sys.exit(1 if mode == "no machine" else 0)
if sys.argv[1] == "stop":
    sys.exit(1 if "not stopped" in mode else 0)
file = Path(sys.argv[sys.argv.index("-f") + 1])
if mode == "lost":
    sys.exit(1)
if mode == "hangs":
    time.sleep(60)
book = json.loads(file.read_text())
cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
assert not any(cell["outputs"] for cell in cells)
for number, cell in enumerate(cells):
    if mode == "cut off" and number == 5:
        break
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "done"}]
if "error" in mode:
    cells[3]["outputs"] = [
        {"output_type": "error", "ename": "CourseError", "evalue": "the reason", "traceback": []}
    ]
if mode == "another count":
    book["cells"].pop()
Path(str(file)[: -len(".ipynb")] + "_output.ipynb").write_text(json.dumps(book))
sys.exit(3 if mode == "another code" else 0)
"""


def run(folder: Path, mode: str, *arguments: str) -> tuple[subprocess.CompletedProcess, list]:
    """Run the tool with that command on the path; what it did, and the calls that the command noted."""
    (folder / "colab.py").write_text(COLAB)
    command = folder / "colab"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/colab.py "$@"\n')
    command.chmod(0o755)
    path = str(folder) if mode == "absent" else f"{folder}{os.pathsep}{os.environ['PATH']}"
    if mode == "absent":
        command.unlink()
    done = subprocess.run(
        [sys.executable, KIT / "tools" / "colab.py", *arguments],
        env=os.environ | {"PATH": path, "MODE": mode, "NOTED": str(folder / "noted")},
        capture_output=True,
        text=True,
        check=False,
    )
    noted = folder / "noted"
    calls = [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
    return done, calls


def test_each_notebook_gets_a_machine_of_its_own_with_a_t4_and_gives_it_back(tmp_path):
    done, calls = run(tmp_path, "fine", "03", "04")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [call[0] for call in calls] == ["stop", "new", "exec", "stop"] * 2
    before, new, execute, stop = calls[:4]
    assert new[1:] == ["-s", "lora-course-03", "--gpu", "T4"]
    assert execute[1:3] == ["-s", "lora-course-03"]
    assert execute[4].endswith("03_lora_lab.ipynb") and execute[5:] == ["--timeout", "3600"]
    assert before == stop == ["stop", "-s", "lora-course-03"]
    executed = KIT / "build" / "colab" / "03_lora_lab_output.ipynb"
    assert nbformat.read(executed, as_version=4).cells


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("no machine", "the free quota may be used up"),
        ("lost", "brought no notebook back"),
        ("another code", "`colab exec` ended with code 3"),
        ("hangs", "`colab exec` did not end in time"),
        ("error", "CourseError: the reason"),
        ("cut off", "was not reached"),
        ("another count", "cells came back, the notebook has"),
        ("not stopped", "colab stop -s lora-course-04"),
        ("error, not stopped", "CourseError: the reason\ncolab stop -s lora-course-04"),
    ],
)
def test_every_way_to_fail_is_an_exit_code_and_a_reason_and_the_machine_is_given_back(
    tmp_path, mode, said
):
    done, calls = run(tmp_path, mode, "04", "--minutes", "0.02" if mode == "hangs" else "5")
    assert done.returncode == 1
    assert "[FAILED] 04_choose_data" in done.stdout
    assert all(one in done.stdout for one in said.splitlines())
    assert "Traceback" not in done.stderr
    assert calls[-1][0] == ("new" if mode == "no machine" else "stop")


def test_the_copy_downloads_the_branch_that_was_asked_for(tmp_path):
    copy = KIT / "build" / "colab" / "04_choose_data.ipynb"
    own = (KIT / "notebooks" / copy.name).read_text(encoding="utf-8")
    for arguments in (["04"], ["04", "--ref", "next"]):
        done, _ = run(tmp_path, "fine", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        ref = arguments[-1] if len(arguments) > 1 else release()[1]
        first = next(c for c in nbformat.read(copy, as_version=4).cells if c.cell_type == "code")
        assert f'REPO, REF = "https://github.com/{release()[0]}", "{ref}"' in first.source
    assert (KIT / "notebooks" / copy.name).read_text(encoding="utf-8") == own


def test_a_failure_does_not_keep_the_next_notebook_from_running(tmp_path):
    done, calls = run(tmp_path, "error", "03", "04")
    assert done.returncode == 1 and [call[0] for call in calls].count("exec") == 2


def test_without_the_command_the_way_to_it_is_told(tmp_path):
    done, _ = run(tmp_path, "absent")
    assert done.returncode == 1 and "uv tool install google-colab-cli" in done.stderr


def test_a_notebook_that_does_not_exist_is_named(tmp_path):
    done, calls = run(tmp_path, "fine", "42")
    assert done.returncode == 1 and "42" in done.stderr and not calls
