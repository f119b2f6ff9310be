"""The lock files, what their packages ask for, and the known Colab images."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.errors import CourseError
from helpers.setup import locks

KIT = Path(__file__).parents[2]
IMAGES = locks.images()
LOCKS = ("requirements-colab.txt", "requirements/requirements-local.txt")
COLAB, LOCAL = (locks.pins(KIT / name) for name in LOCKS)


# ----------------------------------------------------------------------------------------------- reading
def test_pins_are_read_past_comments_hashes_and_markers(tmp_path):
    (tmp_path / "lock.txt").write_text(
        "# a note with ==\n"
        "one-package==1.2.post3 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        'Two.Package==4.0 ; python_version < "4" \\\n    --hash=sha256:22\n'
    )
    assert locks.pins(tmp_path / "lock.txt") == {
        "one-package": "1.2.post3",
        "two-package": "4.0",
    }


@pytest.mark.parametrize(
    "line",
    [
        "two == 2.0",
        "two>=2",
        "  two==2.0",
        "two===2.0",
        "two==2.0,>1",
        "two==2.*",
        "two==latest",
        "two",
        "-r more.txt",
        "One==1.0",
    ],
)
def test_a_line_of_a_lock_that_is_no_pin_is_shown_and_in_a_freeze_passed_over(tmp_path, line):
    file, text = tmp_path / "lock.txt", f"one==1.0 \\\n    --hash=sha256:00\n{line}\n"
    file.write_text(text)
    with pytest.raises(CourseError, match=f"lock.txt, line 3, .*: {re.escape(line)}") as caught:
        locks.pins(file)
    assert ("pins a package again" in caught.value.what) == (line == "One==1.0")
    assert locks.versions(text) == {"one": "1.0"}


def test_an_invisible_mark_before_the_first_line_hides_no_pin(tmp_path):
    file = tmp_path / "lock.txt"
    file.write_text("one==1.0\ntwo==2.0\n", encoding="utf-8-sig")
    assert locks.pins(file) == {"one": "1.0", "two": "2.0"}


def test_colab_has_a_lock_file_of_its_own(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert locks.lock_file() == KIT / "requirements" / "requirements-local.txt"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert locks.lock_file() == KIT / "requirements-colab.txt"


def test_a_pip_freeze_is_read_past_addresses_comments_and_odd_names():
    text = (
        "# made by a tool\n-e git+https://example.org/x.git#egg=x\nbare_name\n"
        "Odd.Name_2==1.0+cu128\nextra[all]==2.0 # why\nlocal @ file:///tmp/local-3.0.whl\n"
        "  indented==9\nlast==1!2.0.dev3"
    )
    assert locks.versions(text) == {"odd-name-2": "1.0+cu128", "extra": "2.0", "last": "1!2.0.dev3"}


@pytest.mark.parametrize("content", [None, b"", b"# nothing pinned\n", b"\xff\xfe=="])
def test_a_lock_file_that_is_absent_or_damaged_is_named(tmp_path, content):
    file = tmp_path / "lock.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CourseError, match="lock.txt") as caught:
        locks.pins(file)
    assert "first cell" in caught.value.todo


# ------------------------------------------------------------------------------------------ requirements
def installed(**found: str):
    return lambda name: {key.replace("_", "-"): value for key, value in found.items()}.get(name)


def test_what_is_absent_too_old_or_too_new_is_unmet():
    requires = {"one": ["two>=2", "three<3", "four", "five==1.*", "six>=1; extra == 'all'"]}
    there = installed(two="1.9", three="3.0", five="1.4")
    assert [str(u) for u in locks.unmet(requires, there)] == [
        "one asks for two>=2; two 1.9 is there",
        "one asks for three<3; three 3.0 is there",
        "one asks for four; it is absent",
    ]


def test_names_are_compared_as_pip_does_and_pre_releases_count():
    requires = {"one": ["Two_Part.Name>=1"]}
    assert locks.unmet(requires, installed(two_part_name="2.0rc1")) == []


def test_markers_are_judged_for_the_python_that_was_asked_for():
    requires = {"one": ["old; python_version < '3.13'", "mac; sys_platform == 'darwin'"]}
    assert [u.dependency for u in locks.unmet(requires, installed(), "3.12.13")] == ["old"]
    assert locks.unmet(requires, installed(), "3.13.15") == []


def test_without_packaging_pip_s_copy_reads_requirements():
    code = (
        "import sys; sys.modules['packaging'] = sys.modules['packaging.requirements'] = None\n"
        "from helpers.setup import locks\n"
        "print(locks.requirement_class().__module__)\n"
        "sys.modules['pip._vendor.packaging.requirements'] = None\n"
        "print(locks.requirement_class())\n"
        "try:\n    locks.unmet({}, None)\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=KIT, capture_output=True, text=True, check=True
    )
    vendored, none, *error = done.stdout.splitlines()
    assert vendored.startswith("pip._vendor") and none == "None"
    assert "packaging" in error[0] and "environment.install()" in error[-1]


def test_every_exception_has_a_reason_of_a_sentence():
    assert {"xformers", "certifi"} <= set(locks.exceptions())
    for name, reason in locks.exceptions().items():
        assert len(reason.split()) > 5 and reason.endswith("."), name


def test_an_override_with_a_version_counts_only_where_that_version_is_there():
    assert "certifi" in locks.exceptions(installed(certifi="2026.7.22"))
    for there in (installed(), installed(certifi="2024.8.30")):
        found = locks.exceptions(there)
        assert "certifi" not in found and "xformers" in found


# ------------------------------------------------------------------------------------------ Colab's images
@pytest.mark.parametrize("label", IMAGES)
def test_on_every_known_image_every_requirement_of_the_lock_is_met(label):
    # ipywidgets is Colab's own there, and another version here.
    pinned = {name: pin for name, pin in COLAB.items() if LOCAL[name] == pin}
    requires = {name: importlib.metadata.requires(name) or [] for name in pinned}
    packages = IMAGES[label]["packages"] | COLAB
    found = locks.unmet(requires, packages.get, IMAGES[label]["python"])
    assert [str(u) for u in found if u.dependency not in locks.exceptions()] == []
    assert {"xformers", "certifi"} <= {u.dependency for u in found}


@pytest.mark.parametrize("label", IMAGES)
def test_a_known_image_is_recognised_before_and_after_the_course_installed(label):
    image = IMAGES[label]
    for packages in (
        image["packages"],
        image["packages"] | COLAB,
    ):
        assert str(locks.nearest_image(image["python"], packages.get)) == f"Colab {label}"


def test_an_unknown_image_is_described_by_its_nearest():
    newest = next(iter(IMAGES))
    packages = IMAGES[newest]["packages"] | {"torch": "2.13.0+cu130"}
    found = locks.nearest_image("3.14.1", packages.get)
    assert found.label == newest
    assert found.differences["torch"] == (IMAGES[newest]["packages"]["torch"], "2.13.0+cu130")
    assert re.search(
        r"nearest is \S+, which differs in Python 3\.14\.1 \(3\.\S+\), torch", str(found)
    )


def test_many_differences_are_counted_not_listed():
    found = locks.nearest_image("3.9.0", lambda name: None)
    assert re.search(r" and \d+ more$", str(found)) and len(str(found)) < 400


def test_images_come_newest_first_and_hold_what_no_lock_replaces():
    labels = list(IMAGES)
    assert labels == sorted(labels, key=lambda label: re.findall(r"\d+", label), reverse=True)
    for image in IMAGES.values():
        assert set(locks.UNTOUCHED) <= set(image["packages"])
        assert re.fullmatch(r"3\.\d+\.\d+", image["python"])


def make_entry(folder: Path, freeze: str, os_info: str, label: str = "2099-01-01"):
    """Run the tool in a copy of the kit that holds only what it reads."""
    names = ("__init__.py", "errors.py", "setup/__init__.py", "setup/locks.py")
    names = [f"helpers/{name}" for name in (*names, "setup/colab_images.json")]
    for name in (*names, "tools/images.py"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((KIT / name).read_bytes())
    (folder / "freeze.txt").write_text(freeze)
    (folder / "os.txt").write_text(os_info)
    command = [sys.executable, "tools/images.py", label, "freeze.txt", "os.txt"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done, json.loads((folder / "helpers" / "setup" / "colab_images.json").read_text())


def test_a_package_list_becomes_an_entry(tmp_path):
    freeze = "# a comment\ntorch==2.12.0+cu128\nnumpy==2.2.0\ngoogle-colab\nunrelated==1.0\n"
    done, known = make_entry(tmp_path, freeze, "Ubuntu 24.04\nPython 3.14.2\n")
    assert done.returncode == 0, done.stderr
    assert list(known) == ["2099-01-01", *IMAGES]
    assert known["2099-01-01"] == {
        "python": "3.14.2",
        "packages": {"numpy": "2.2.0", "torch": "2.12.0+cu128", "unrelated": "1.0"},
    }


@pytest.mark.parametrize(
    ("freeze", "os_info", "said"),
    [
        ("numpy==2.2.0\n", "Python 3.14.2\n", "freeze.txt is not a Colab package list"),
        ("torch==2.12.0\n", "Ubuntu 24.04\n", "os.txt names no Python version"),
    ],
)
def test_a_list_that_is_none_changes_nothing_and_is_named(tmp_path, freeze, os_info, said):
    done, known = make_entry(tmp_path, freeze, os_info)
    assert done.returncode != 0 and said in done.stderr
    assert known == IMAGES


# ------------------------------------------------------------------------------------------- lock files


def test_both_locks_agree_except_on_the_widgets():
    # JupyterLab 4 cannot show the ipywidgets that Colab has.
    assert [name for name in COLAB if LOCAL.get(name) != COLAB[name]] == ["ipywidgets"]
    assert COLAB["ipywidgets"].startswith("7.") and LOCAL["ipywidgets"].startswith("8.")


@pytest.mark.parametrize("pinned", [COLAB, LOCAL], ids=LOCKS)
def test_no_lock_touches_torch_or_what_it_is_built_with(pinned):
    compiled = r"(torch|torchvision|torchaudio|triton|nvidia-.*|cuda-.*|xformers)$"
    assert [name for name in pinned if re.match(compiled, name)] == []


def test_the_colab_lock_leaves_numpy_alone():
    assert "numpy" not in COLAB
    assert "numpy" in LOCAL


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_once_and_has_hashes(name):
    text = (KIT / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locks.pins(KIT / name)) > 10
    for block in blocks:
        first, *rest = block.replace("\\\n", "\n").split("\n")
        assert re.fullmatch(r"[a-z0-9-]+==[^\s=]+ *(;.*)?", first.strip()), first
        hashes = [line.strip() for line in rest if line.strip() and not line.startswith("#")]
        assert hashes, first
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", h) for h in hashes), first


@pytest.mark.parametrize(
    ("source", "pinned"), [("colab", COLAB), ("colab", LOCAL), ("local", LOCAL)]
)
def test_the_locks_hold_what_their_sources_ask_for(source, pinned):
    asked = locks.versions(locks.read(KIT / "requirements" / f"requirements-{source}.in"))
    # torch is installed apart, and the local source overrides Colab's ipywidgets.
    asked.pop("torch", None)
    if source == "colab" and pinned is LOCAL:
        asked.pop("ipywidgets")
    assert {name: pinned.get(name.replace("_", "-")) for name in asked} == asked


def test_unsloth_and_its_companion_are_a_pair():
    assert COLAB["unsloth"] == COLAB["unsloth-zoo"]
