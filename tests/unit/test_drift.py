"""`make drift`: does a lock hold on an image? Against the real package index."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.setup import locks

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
import drift as drift_tool

NEWEST = next(iter(locks.images()))


def ask(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, KIT / "tools" / "drift.py", *arguments]
    return subprocess.run(
        command,
        cwd=KIT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def drift(*arguments: str | Path) -> subprocess.CompletedProcess:
    done = ask(*arguments)
    if re.search("Failed to fetch|error sending request|network was disabled", done.stderr):
        pytest.skip("no package index can be reached")
    return done


def freeze(folder: Path, python: str, **changed: str | None) -> Path:
    """The package list of an invented image: the newest one's, with other versions (None: absent)."""
    packages = locks.images()[NEWEST]["packages"] | changed
    file = folder / "pip-freeze-invented.txt"
    lines = ["# pip freeze of an invented image", "-e git+https://example.org/x#egg=x"]
    file.write_text("\n".join(lines + [f"{n}=={v}" for n, v in packages.items() if v]) + "\n")
    (folder / "os-info-invented.txt").write_text(f"Ubuntu 24.04\nPython {python}\n")
    return file


def a_lock(folder: Path, *pins: str) -> Path:
    file = folder / "lock.txt"
    file.write_text("# proven with torch==2.11.0+cu128\n" + "\n".join(pins) + "\n")
    return file


def part_of_the_lock(*names: str) -> str:
    """The course's own lines for these packages, with their hashes: fewer are asked for sooner."""
    blocks = drift_tool.blocks((KIT / "requirements-colab.txt").read_text(encoding="utf-8"))
    return "".join(blocks[name] for name in names)


@pytest.fixture
def future(tmp_path) -> Path:
    """An image that does not exist yet: newer Python, PyTorch and Transformers."""
    return freeze(tmp_path, "3.14.2", torch="2.99.0+cu140", transformers="5.99.0")


@pytest.mark.parametrize("label", locks.images())
def test_the_lock_holds_on_every_known_image(label):
    done = drift(label)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left unmet on purpose: unsloth asks for xformers" in done.stdout
    assert "every requirement is met" in done.stdout


def test_the_pins_of_the_year_before_are_reported_with_what_would_mend_each(tmp_path):
    # From the write-up's install cell, which this course's notebook 01 takes apart.
    pins = ["xformers==0.0.29", "trl==0.8.5", "unsloth==2025.2.15", "unsloth_zoo==2025.2.7"]
    lock = a_lock(tmp_path, *pins)
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


def test_the_lock_on_a_future_image_is_reported_with_python_torch_and_the_caps_on_it(future):
    done = drift(future)
    assert done.returncode == 1
    said = done.stdout
    assert "Python 3.14.2, torch 2.99.0+cu140" in said
    assert "Note: proven with torch 2.11.0+cu128, the image has 2.99.0+cu140." in said
    assert "Python 3.14: the course is proven with 3.11, 3.12, 3.13 and refuses others" in said
    assert "matplotlib==3.10.0: no file for Python 3.14" in said
    for package in ("unsloth", "unsloth-zoo"):
        assert re.search(rf"{package} asks for torch<\S+; torch 2\.99\.0\+cu140 is there", said)
        assert re.search(rf"-> ({package} \S+, its newest, asks for|pin {package}==)", said)
    # The lock replaces the image's Transformers.
    assert "transformers 5.99.0 is there" not in said


def test_an_image_above_a_cap_is_reported_where_the_lock_does_not_replace_it(tmp_path, future):
    pins = locks.pins(KIT / "requirements-colab.txt")
    lock = a_lock(tmp_path, *(f"{n}=={pins[n]}" for n in ("peft", "trl", "unsloth", "unsloth-zoo")))
    done = drift(future, "--lock", lock)
    over = re.search(
        r"unsloth asks for transformers\S+; transformers 5\.99\.0 is there", done.stdout
    )
    assert over and f"-> pin transformers=={pins['transformers']}" in done.stdout[over.end() :]


def test_a_pin_of_what_must_not_be_replaced_is_a_conflict(tmp_path):
    same = f"numpy=={locks.images()[NEWEST]['packages']['numpy']}"
    done = drift(NEWEST, "--lock", a_lock(tmp_path, "torch==2.13.0", "gguf==0.19.0", same))
    assert done.returncode == 1 and "1 conflicts" in done.stderr
    assert re.search(r"torch==2\.13\.0: the image has 2\.11\.0\+cu128.*\n +-> remove", done.stdout)


def test_a_file_whose_hash_the_lock_does_not_have_is_a_conflict(tmp_path):
    lock = tmp_path / "lock.txt"
    wrong = re.sub(r"sha256:.{8}", "sha256:00000000", part_of_the_lock("gguf"))
    lock.write_text(part_of_the_lock("accelerate") + wrong + part_of_the_lock("peft"))
    done = drift(NEWEST, "--lock", lock)
    assert done.returncode == 1 and "1 conflicts" in done.stderr
    assert re.search(r"gguf-\S+\.whl: the lock does not have its hash", done.stdout)


def test_what_would_mend_one_pin_suits_the_others(tmp_path):
    # botocore, which is content with the image, allows no urllib3 2.
    image = freeze(tmp_path, "3.13.5", urllib3="1.25.11")
    done = drift(image, "--lock", a_lock(tmp_path, "botocore==1.29.0", "selenium==4.30.0"))
    assert re.search(
        r"selenium asks for urllib3\S+; urllib3 1\.25\.11 is there\n +-> pin urllib3==1\.26\.",
        done.stdout,
    )


def test_a_newer_release_may_take_what_the_index_does_not_have_yet(tmp_path):
    # Transformers asked for numpy<2 in 4.42; no NumPy 2.99 exists.
    image = freeze(tmp_path, "3.13.5", numpy="2.99.0", triton=None)
    lock = a_lock(tmp_path, "transformers==4.42.0", "cut-cross-entropy==25.1.1")
    said = drift(image, "--lock", lock).stdout
    assert re.search(r"-> pin transformers==\S+, which takes numpy 2\.99\.0", said)
    assert "cut-cross-entropy asks for triton; it is absent" in said
    assert re.search(r"newest, asks for triton\S* too: stay on|which does without triton", said)


def test_an_index_that_cannot_be_asked_is_no_conflict():
    # Port 9 of this machine, where nothing listens.
    dead = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_INDEX": "", "UV_FIND_LINKS": ""}
    done = ask(NEWEST, UV_NO_CONFIG="1", UV_NO_CACHE="1", UV_HTTP_RETRIES="0", **dead)
    assert done.returncode == 2
    assert "The index could not be asked:" in done.stderr and "127.0.0.1:9" in done.stderr
    assert "[FIX]" not in done.stdout and "Traceback" not in done.stderr


def test_without_a_network_nothing_is_taken_for_a_conflict(tmp_path):
    done = ask(NEWEST, UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "empty"))
    assert done.returncode == 2 and "[FIX]" not in done.stdout


def test_a_package_with_the_address_of_its_wheel_counts_as_the_image_s(tmp_path):
    # Colab's own way to name PyTorch, at times.
    torch = (
        "https://example.org/whl/cu128/torch-2.11.0%2Bcu128-cp313-cp313-manylinux_2_28_x86_64.whl"
    )
    file = freeze(tmp_path, "3.13.15", torch=None, numpy=None)
    numpy = "https://example.org/numpy-2.1.3-cp313-cp313-manylinux_2_17_x86_64.whl#sha256=00"
    file.write_text(file.read_text() + f"torch @ {torch}\nnumpy @ {numpy}\n")
    lock = tmp_path / "lock.txt"
    lock.write_text(part_of_the_lock("accelerate"))  # it asks for both
    done = drift(file, "--lock", lock)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch 2.11.0+cu128" in done.stdout


def test_google_s_own_file_names_find_each_other(tmp_path):
    file = freeze(tmp_path, "3.13.15").rename(tmp_path / "pip-freeze.gpu.txt")
    (tmp_path / "os-info-invented.txt").rename(tmp_path / "os-info-gpu.txt")
    done = drift(file, "--lock", a_lock(tmp_path, "colorama==0.4.6"))
    assert done.returncode == 0 and "Python 3.13.15" in done.stdout


def test_what_would_mend_a_pin_without_a_file_suits_the_others(tmp_path):
    # Unsloth takes no datasets from 5 on, of which there are releases.
    text = (KIT / "requirements-colab.txt").read_text()
    lock = tmp_path / "lock.txt"
    lock.write_text(text.replace("\ndatasets==4.8.5", "\ndatasets==4.8.99"))
    said = drift(NEWEST, "--lock", lock).stdout
    mend = re.search(
        r"datasets==4\.8\.99: no file for Python 3\.13.*\n +-> pin datasets==(\S+),", said
    )
    assert mend and mend[1].startswith("4.") and said.count("[FIX]") == 1
    # With the mend in place the lock holds, but for the hashes.
    bare = [f"{n}=={v}" for n, v in (locks.pins(lock) | {"datasets": mend[1]}).items()]
    assert drift(NEWEST, "--lock", a_lock(tmp_path, *bare)).returncode == 0


def test_a_pin_for_a_newer_python_than_this_one_is_judged_by_the_images(tmp_path):
    # scipy 1.17 asks for Python 3.11 or newer, 1.18 for 3.12.
    done = drift(NEWEST, "--lock", a_lock(tmp_path, "scipy==1.18.0"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_image_with_a_python_that_the_course_refuses_does_not_hold(tmp_path):
    image = freeze(tmp_path, "3.14.2")
    done = drift(image, "--lock", a_lock(tmp_path, "colorama==0.4.6"))
    assert done.returncode == 1 and "1 conflicts" in done.stderr
    assert "add it to PYTHONS in helpers/setup/locks.py" in done.stdout


def test_a_pin_without_a_hash_among_others_is_a_conflict(tmp_path):
    text = part_of_the_lock("accelerate", "gguf", "peft")
    lock = tmp_path / "lock.txt"
    lock.write_text(re.sub(r"(?m)^(peft==\S+) \\\n(    --hash\S+( \\)?\n)+", r"\1\n", text))
    done = drift(NEWEST, "--lock", lock)
    assert done.returncode == 1 and "1 conflicts" in done.stderr
    assert "peft==0.21.2: the lock has no hash of it" in done.stdout


def test_a_pin_that_cannot_be_read_is_named(tmp_path):
    done = drift(NEWEST, "--lock", a_lock(tmp_path, "peft==1..2"))
    assert done.returncode == 1 and "This is no pin" in done.stderr and "peft==1..2" in done.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (None, [], "is neither a file nor a known image. Known: "),
        ("torch==2.11.0\n", [], "Which Python has"),
        ("torch==2.11.0\n", ["--python", "abc"], "abc is not a version of Python"),
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


def test_python_goes_with_a_file_only():
    done = drift(NEWEST, "--python", "3.14")
    assert done.returncode == 1 and "--python goes with a file" in done.stderr


def test_an_empty_lock_is_named(tmp_path):
    done = drift(NEWEST, "--lock", a_lock(tmp_path))
    assert done.returncode == 1 and "pins no package" in done.stderr
    assert "Traceback" not in done.stderr
