"""`make drift`: does a lock hold on an image? Against the real package index."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import locks

KIT = Path(__file__).parents[2]
NEWEST = next(iter(locks.images()))


def drift(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, KIT / "tools" / "drift.py", *arguments]
    done = subprocess.run(command, cwd=KIT, capture_output=True, text=True, check=False)
    if "could be read from the index" in done.stderr:
        pytest.skip("no package index can be reached")
    return done


def a_lock(folder: Path, *pins: str) -> Path:
    file = folder / "lock.txt"
    file.write_text("# proven with torch==2.11.0+cu128\n" + "\n".join(pins) + "\n")
    return file


@pytest.fixture
def future(tmp_path) -> Path:
    """An image that does not exist yet: newer Python, PyTorch and Transformers."""
    packages = locks.images()[NEWEST]["packages"] | {
        "torch": "2.99.0+cu140",
        "transformers": "5.99.0",
    }
    file = tmp_path / "pip-freeze-future.txt"
    lines = ["# pip freeze of an invented image", "-e git+https://example.org/x#egg=x"]
    file.write_text("\n".join(lines + [f"{n}=={v}" for n, v in packages.items()]) + "\n")
    (tmp_path / "os-info-future.txt").write_text("Ubuntu 24.04\nPython 3.14.2\n")
    return file


@pytest.mark.parametrize("label", locks.images())
def test_the_lock_holds_on_every_known_image(label):
    done = drift(label)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left unmet on purpose: unsloth asks for xformers" in done.stdout
    assert "every requirement is met" in done.stdout


def test_the_pins_of_the_year_before_are_reported_with_what_would_mend_each(tmp_path):
    # From the write-up's install cell, which this course's notebook 01 takes apart.
    lock = a_lock(tmp_path, "xformers==0.0.29", "unsloth==2025.2.15", "unsloth_zoo==2025.2.7")
    done = drift(NEWEST, "--lock", lock)
    assert done.returncode == 1
    said = done.stdout
    assert "xformers==0.0.29: no file for Python 3.13" in said
    assert re.search(r"-> pin xformers==0\.0\.\d+, the newest with a file for Python 3\.13", said)
    assert re.search(
        r"unsloth-zoo asks for cut_cross_entropy; it is absent\n.*\n? +-> pin cut-cross-entropy==\d",
        said,
    )
    assert re.search(
        r"protobuf<4\.0\.0; protobuf \S+ is there\n(.*\n)? +-> pin protobuf==3\.", said
    )
    # The package of which the year before's pins say nothing is not invented.
    assert "transformers" not in said.replace("transformers==", "")
    assert "conflicts: this lock does not hold" in done.stderr


def test_a_future_image_is_reported_with_python_torch_and_what_exceeds_a_cap(tmp_path, future):
    lock = a_lock(tmp_path, "unsloth==2026.10.9", "matplotlib==3.10.0")
    done = drift(future, "--lock", lock)
    assert done.returncode == 1
    assert "Python 3.14.2, torch 2.99.0+cu140" in done.stdout
    assert "Note: proven with torch 2.11.0+cu128, the image has 2.99.0+cu140." in done.stdout
    assert "Note: proven with Python 3.11, 3.12, 3.13." in done.stdout
    assert "matplotlib==3.10.0: no file for Python 3.14" in done.stdout
    over = re.search(
        r"unsloth asks for transformers\S+; transformers 5\.99\.0 is there", done.stdout
    )
    assert over and "-> pin transformers==5.17.0" in done.stdout[over.end() :]


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (None, [], "is neither a file nor a known image. Known: "),
        ("torch==2.11.0\n", [], "Which Python has"),
        ("numpy==2.1.3\n", ["--python", "3.13"], "is not a Colab package list"),
        ("\xff\xfe\x00", ["--python", "3.13"], "is not a Colab package list"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, content, arguments, said):
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_text(content)
    done = drift(file, *arguments)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_an_empty_lock_is_named(tmp_path):
    done = drift(NEWEST, "--lock", a_lock(tmp_path))
    assert done.returncode == 1 and "pins no package" in done.stderr
