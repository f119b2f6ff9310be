"""What must not be replaced and was moved by another installation: named, with the way back, on Colab and off it.

The packages are folders of metadata on a bare interpreter's path: what is installed is read from there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import machine
from helpers.setup import locks, untouched

KIT = Path(__file__).parents[2]
LABEL, IMAGE = next(iter(locks.images().items()))
LOCAL = locks.pins(KIT / "requirements" / "requirements-local.txt")
COLAB_LOCK = locks.pins(KIT / "requirements-colab.txt")
TORCH = locks.versions(locks.read(KIT / "requirements" / "requirements-local.in"))["torch"]
REPORT = """\
import json, platform, sys
sys.path.insert(0, {site!r})
platform.python_version = lambda: {python!r}
{before}
from helpers.setup import environment, installation
# An installer would work on the environment that runs the tests.
installation.bring = None
report = environment.check()
said = []
try:
    environment.install()
except environment.CourseError as error:
    said = [error.what, error.why, error.todo]
print(json.dumps({{"base": report.base, "unmet": report.unmet, "error": said, "ok": report.ok,
                   "fixes": [row.fix for row in report.rows if not row.ok]}}))
"""


class Site:
    """A folder on Python's path that says which packages are installed."""

    def __init__(self, folder: Path, packages: dict[str, str]):
        self.folder = folder
        for name, version in packages.items():
            self.put(name, version)

    def put(self, name: str, version: str | None, *asks: str) -> None:
        """Install this version, or none."""
        stem = name.replace("-", "_")
        for old in self.folder.glob(f"{stem}-*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        if version:
            info = self.folder / f"{stem}-{version}.dist-info"
            info.mkdir(parents=True)
            lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {a}" for a in asks)]
            (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
            (info / "RECORD").touch()

    def report(self, before: str = "", python: str = IMAGE["python"], **variables: str) -> dict:
        """What `check` and `install` say in a bare interpreter; no installer is there to be started."""
        code = REPORT.format(site=str(self.folder), python=python, before=before)
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE", "COLAB"))
        }
        variables = {"PATH": str(self.folder)} | variables
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=KIT,
            env=kept | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        *printed, last = done.stdout.splitlines()
        return json.loads(last) | {"printed": printed}


COLAB = {"COLAB_RELEASE_TAG": "release-colab"}


@pytest.fixture
def colab(tmp_path) -> Site:
    """Colab's newest known image, with the course's list installed on it."""
    return Site(tmp_path, IMAGE["packages"] | COLAB_LOCK)


@pytest.fixture
def laptop(tmp_path) -> Site:
    """The course's own environment."""
    site = Site(tmp_path, LOCAL | {"torch": f"{TORCH}+cpu"})
    (tmp_path / ".ready").touch()
    return site


OWN = "sys.prefix = sys.path[0]"  # the environment that `make` set up


def wrong(report: dict) -> dict[str, list]:
    return {name: [detail, fix] for name, ok, detail, fix in report["base"] if not ok}


# --------------------------------------------------------------------------------------------- on Colab
def test_a_known_image_with_the_course_on_it_has_nothing_moved(colab):
    report = colab.report(**COLAB)
    assert wrong(report) == {} and report["error"] == []


@pytest.mark.parametrize("name", locks.UNTOUCHED)
@pytest.mark.parametrize("version", ["9.9.0", None])
def test_on_colab_what_was_moved_is_named_and_the_fix_is_a_fresh_machine(colab, name, version):
    colab.put(name, version)
    report = colab.report(**COLAB)
    came = IMAGE["packages"][name]
    assert wrong(report) == {
        name: [f"{version or 'absent'}; Colab {LABEL} came with {came}", machine.FRESH_MACHINE]
    }
    what, why, todo = report["error"]
    assert f"{name} {version or 'absent'}" in what and came in what
    assert "compiled" in why and "Disconnect and delete runtime" in todo and not report["ok"]
    # Whoever knows better may go on.
    assert colab.report(**COLAB, COURSE_INSTALL="0")["error"] == []


def test_an_image_that_nobody_knows_is_not_taken_for_a_moved_one(colab):
    for name in list(IMAGE["packages"])[::3]:
        if name not in COLAB_LOCK:
            colab.put(name, "99.0")
    report = colab.report(**COLAB)
    assert wrong(report) == {} and report["error"] == []


def test_the_image_is_known_by_its_other_packages():
    for label, image in locks.images().items():
        packages = image["packages"] | dict.fromkeys(locks.UNTOUCHED, "9.9")
        assert locks.this_image(image["python"], packages.get) == label
        assert locks.this_image("3.9.1", packages.get) is None
    assert locks.this_image(IMAGE["python"], lambda name: None) is None


def test_a_torchvision_for_another_torch_is_found_on_any_image(colab):
    for name in list(IMAGE["packages"])[::3]:
        if name not in COLAB_LOCK and name not in locks.UNTOUCHED:
            colab.put(name, "99.0")
    colab.put("torchvision", "0.25.0", "torch==2.10.0")
    # A bare interpreter reads requirements with pip's copy of `packaging`.
    import pip

    path = f"sys.path.append({str(Path(pip.__file__).parents[1])!r})"
    unmet = colab.report(path, **COLAB)["unmet"]
    asked = f"torchvision asks for torch==2.10.0; torch {IMAGE['packages']['torch']} is there"
    assert f"{asked}  ->  {machine.FRESH_MACHINE}" in unmet


def test_what_is_in_memory_in_another_version_than_is_installed_needs_a_restart(colab, tmp_path):
    (tmp_path / "numpy.py").write_text("__version__ = '2.0.0'\n")
    report = colab.report("import numpy", **COLAB)
    version = IMAGE["packages"]["numpy"]
    assert wrong(report) == {
        "numpy": [f"2.0.0 is loaded, {version} is installed", untouched.RESTART]
    }
    assert "Restart the session" in report["error"][2]


def test_what_is_in_memory_in_the_installed_version_is_right(colab, tmp_path):
    # What a version was built for is not always said in both places.
    (tmp_path / "torch.py").write_text(
        "import types\n__version__ = '2.11.0+cu130'\n"
        "cuda = types.SimpleNamespace(is_available=lambda: False)\n"
    )
    colab.put("torch", "2.11.0")
    assert wrong(colab.report("import torch", **COLAB)) == {}


# -------------------------------------------------------------------------------- on a machine of one's own
def test_the_courses_own_environment_has_nothing_moved(laptop):
    report = laptop.report(OWN)
    assert wrong(report) == {} and report["error"] == []


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_on_a_laptop_what_was_moved_is_named_and_make_brings_it_back(laptop, name):
    laptop.put(name, "9.9.0")
    report = laptop.report(OWN)
    assert [*report["fixes"], *(fix for _, fix in wrong(report).values())] == [untouched.MAKE]
    what, _, todo = report["error"]
    assert f"{name} 9.9.0; the course is proven with " in what and "`make lab`" in todo
    assert laptop.report(OWN, COURSE_INSTALL='"0"')["error"] == []


def test_an_environment_of_ones_own_may_have_another_torch_and_it_is_said(laptop):
    (laptop.folder / ".ready").unlink()
    laptop.put("torch", "2.11.0+cu130")
    report = laptop.report(OWN)
    assert wrong(report) == {
        "torch": [f"2.11.0+cu130; the course is proven with {TORCH}", untouched.MAKE]
    }
    assert report["error"] == [] and not report["ok"]
    said = f"torch 2.11.0+cu130; the course is proven with {TORCH}. If something fails, {untouched.MAKE}."
    assert said in report["printed"]


@pytest.mark.parametrize("before", ["", OWN])
def test_on_a_laptop_without_torch_the_set_up_says_how_to_get_it(laptop, before):
    laptop.put("torch", None)
    what, why, todo = laptop.report(before)["error"]
    assert "torch absent" in what and "not installed" in why and "`make lab`" in todo


def differing(site: Site) -> tuple[int, str]:
    code = (
        f"import sys; sys.path.insert(0, {str(site.folder)!r}); sys.argv[1:] = ['--versions']\n"
        "from helpers.setup import environment; sys.exit(environment.main())"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE", "COLAB"))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=KIT,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_versions_are_compared_quickly_for_make(laptop):
    assert differing(laptop) == (0, "versions match\n")
    laptop.put("numpy", "9.9.0")
    laptop.put("torch", "9.9.0")
    assert differing(laptop) == (1, "differ from the pins: numpy torch\n")
