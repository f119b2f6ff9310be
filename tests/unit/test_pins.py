"""`make pins` and `tools/images.py` in a copy of the kit, with short requirements. Against the real package index."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.setup import locks

KIT = Path(__file__).parents[2]
LOCKS = ("requirements-colab.txt", "requirements/requirements-local.txt")
NEWEST = next(iter(locks.images()))
BEFORE = "# Made by `make pins`.\ngguf==0.18.0\n"


@pytest.fixture
def kit(tmp_path) -> Path:
    for folder in ("tools", "helpers"):
        shutil.copytree(
            KIT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    sources = tmp_path / "requirements"
    sources.mkdir()
    shutil.copy(KIT / "requirements" / "requirements-overrides.txt", sources)
    wanted = "packaging\ncolorama==0.4.6\ntomli==2.0.1 ; python_version < '3.13'\n"
    (sources / "requirements-colab.in").write_text(wanted)
    (sources / "requirements-local.in").write_text("iniconfig==2.0.0\n")
    for name in LOCKS:
        (tmp_path / name).write_text(BEFORE)
    return tmp_path


def run(kit: Path, tool: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, kit / "tools" / f"{tool}.py", *arguments]
    done = subprocess.run(command, cwd=kit, capture_output=True, text=True, check=False)
    if re.search("Failed to fetch|error sending request|network was disabled", done.stderr):
        pytest.skip("no package index can be reached")
    assert "Traceback" not in done.stderr
    return done


def test_the_lock_for_colab_is_for_the_images_python_and_says_what_it_was_proven_with(kit):
    packages = {"torch": "2.11.0+cu128", "numpy": "2.0.2", "packaging": "24.0"}
    (kit / "pip-freeze.txt").write_text("\n".join(f"{n}=={v}" for n, v in packages.items()))
    (kit / "os-info.txt").write_text("Python 3.12.13\n")
    done = run(kit, "pins", "pip-freeze.txt")
    assert done.returncode == 0, done.stderr
    lock = kit / "requirements-colab.txt"
    # tomli is asked for before Python 3.13 only; packaging is on the image.
    assert locks.pins(lock) == {"colorama": "0.4.6", "tomli": "2.0.1"}
    assert "# proven with torch==2.11.0+cu128, numpy==2.0.2, Python 3.12.13\n" in lock.read_text()
    # Python is for people to read: what is never replaced is a list of packages.
    assert locks.proven(lock) == {"torch": "2.11.0+cu128", "numpy": "2.0.2"}
    assert "iniconfig" in locks.pins(kit / "requirements" / "requirements-local.txt")


def test_the_images_python_decides_what_is_asked_for(kit):
    (kit / "pip-freeze.txt").write_text("torch==2.11.0\n")
    (kit / "os-info.txt").write_text("Python 3.13.5\n")
    assert run(kit, "pins", "pip-freeze.txt").returncode == 0
    assert "tomli" not in locks.pins(kit / "requirements-colab.txt")


def test_what_is_on_every_image_is_listed_and_what_colab_lacks_on_purpose_is_not(kit):
    packages = {"torch": "2.11.0", "matplotlib": "3.10.0", "packaging": "24.0"}
    wanted = "matplotlib==3.10.0\npackaging\njedi==0.19.2\n"
    (kit / "requirements" / "requirements-colab.in").write_text(wanted)
    (kit / "pip-freeze.txt").write_text("\n".join(f"{n}=={v}" for n, v in packages.items()))
    (kit / "os-info.txt").write_text("Python 3.12.13\n")
    done = run(kit, "pins", "pip-freeze.txt")
    assert done.returncode == 0, done.stderr
    found = locks.pins(kit / "requirements-colab.txt")
    assert found["matplotlib"] == "3.10.0" and not found.keys() & {"packaging", "jedi", "numpy"}
    # On a machine of your own the packages are the same as on Colab.
    assert locks.pins(kit / "requirements" / "requirements-local.txt")["packaging"] == "24.0"


@pytest.mark.parametrize("before", [None, "no pin at all\n"])
def test_a_local_lock_that_is_absent_or_damaged_is_made_anew(kit, before):
    file = kit / "requirements" / "requirements-local.txt"
    file.unlink()
    if before:
        file.write_text(before)
    assert run(kit, "pins", NEWEST).returncode == 0
    assert "iniconfig" in locks.pins(file)


def test_damaged_images_are_named_and_stay(kit):
    file = kit / "helpers" / "setup" / "colab_images.json"
    file.write_text("{")
    (kit / "pip-freeze.txt").write_text("torch==2.11.0\n")
    (kit / "os-info.txt").write_text("Python 3.13.5\n")
    for tool in ("images", "pins", "drift", "replica"):
        arguments = (
            ["2027-01-31", "pip-freeze.txt", "os-info.txt"] if tool == "images" else [NEWEST]
        )
        done = run(kit, tool, *arguments)
        assert done.returncode == 1 and "colab_images.json is damaged" in done.stderr, tool
    assert file.read_text() == "{"


def test_where_the_local_lock_cannot_be_resolved_neither_is_written(kit):
    (kit / "requirements" / "requirements-local.in").write_text("iniconfig==0.0.0.1\n")
    done = run(kit, "pins", NEWEST)
    assert done.returncode == 1
    assert "requirements-local.in could not be resolved" in done.stderr
    assert "iniconfig==0.0.0.1" in done.stderr
    for name in LOCKS:
        assert (kit / name).read_text() == BEFORE


def test_the_lock_of_this_kit_says_with_which_python_it_was_proven():
    text = (KIT / "requirements-colab.txt").read_text(encoding="utf-8")
    assert f", Python {locks.images()[NEWEST]['python']}\n" in text
    cudnn = locks.images()[NEWEST]["packages"]["nvidia-cudnn-cu12"]
    assert f"nvidia-cudnn-cu12=={cudnn}" in text


@pytest.mark.parametrize("label", ["a/../../zz", "..", "newest", "2026/07", ""])
def test_a_label_that_is_no_plain_name_is_refused(kit, label):
    (kit / "pip-freeze.txt").write_text("torch==2.11.0\n")
    (kit / "os-info.txt").write_text("Python 3.13.5\n")
    done = run(kit, "images", label, "pip-freeze.txt", "os-info.txt")
    assert done.returncode == 1 and "is not a label" in done.stderr
    file = Path("helpers", "setup", "colab_images.json")
    assert (kit / file).read_text() == (KIT / file).read_text()


@pytest.mark.parametrize("label", [*locks.images(), "2027-01-31"])
def test_a_date_or_a_version_is_a_label(kit, label):
    (kit / "pip-freeze.txt").write_text("torch==2.11.0\n")
    (kit / "os-info.txt").write_text("Python 3.13.5\n")
    done = run(kit, "images", label, "pip-freeze.txt", "os-info.txt")
    assert done.returncode == 0, done.stderr
    assert f"{label}: Python 3.13.5, 1 packages" in done.stdout
