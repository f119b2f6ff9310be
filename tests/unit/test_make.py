"""The Makefile's own work, in a folder with a space in its name: the environment is made, and mended when it moved.

The packages are tiny ones of the same names, from a folder; the Makefile, its list's form and pip are the real ones.
"""

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

KIT = Path(__file__).resolve().parents[2]


class House:
    """A course that pins two tiny packages, and pip with nothing but a folder of wheels."""

    def __init__(self, folder: Path):
        self.root, self.shelf = folder / "My Drive" / "kit", folder / "shelf"
        self.shelf.mkdir()
        shutil.copytree(KIT / "helpers", self.root / "helpers")
        sources = self.root / "requirements"
        sources.mkdir()
        (sources / "requirements-notebook65.txt").touch()
        for name in ("Makefile", "requirements-colab.txt"):
            shutil.copy(KIT / name, self.root)
        shutil.copy(KIT / "requirements" / "requirements-overrides.txt", sources)
        lines = [self.wheel(name, "1.0") for name in ("numpy", "bystander")]
        for name, version in (("numpy", "2.0"), ("torch", "1.0"), ("torch", "2.0")):
            self.wheel(name, version)
        (sources / "requirements-local.txt").write_text("".join(lines))
        (sources / "requirements-local.in").write_text("torch==1.0\n")

    def wheel(self, name: str, version: str) -> str:
        """Put a package on the shelf; its line for the list of pins."""
        file, info = (
            self.shelf / f"{name}-{version}-py3-none-any.whl",
            f"{name}-{version}.dist-info",
        )
        content = {
            f"{name}.py": f"__version__ = {version!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
        with zipfile.ZipFile(file, "w") as made:
            for path, text in content.items():
                made.writestr(path, text)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return f"{name}=={version} --hash=sha256:{digest}\n"

    def run(self, *command: str | Path) -> str:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("PYTHON", "COURSE", "COLAB", "PIP_", "MAKE", "MFLAGS"))
        }
        pip = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.shelf),
        }
        done = subprocess.run(
            command, cwd=self.root, env=kept | pip, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def make(self) -> str:
        return self.run("make", ".venv/.ready", "TORCH_INDEX=")

    def version(self, package: str) -> str:
        code = f"import {package}; print({package}.__version__)"
        return self.run(self.root / ".venv" / "bin" / "python", "-c", code).strip()


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> House:
    return House(tmp_path_factory.mktemp("make"))


def test_what_another_installation_moved_make_brings_back(house):
    house.make()
    assert (house.version("numpy"), house.version("torch")) == ("1.0", "1.0")
    assert "is up to date" in house.make()
    pip = [house.root / ".venv" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    for moved in (["numpy==2.0"], ["torch==2.0"], ["numpy==2.0", "torch==2.0"]):
        house.run(*pip, *moved)
        said = house.make()
        assert all(name.partition("=")[0] in said for name in moved)
        assert (house.version("numpy"), house.version("torch")) == ("1.0", "1.0")
        assert "is up to date" in house.make()
    # What it does not pin is nobody's fault.
    house.wheel("guest", "1.0")
    house.run(*pip, "guest")
    assert "is up to date" in house.make()
    house.run(*pip[:3], "uninstall", "--yes", "--quiet", "bystander")
    assert "bystander" in house.make() and house.version("bystander") == "1.0"


def test_every_command_of_the_makefile_is_written_for_a_folder_with_a_space(house):
    """What `make` would run; each line is what the shell gets."""
    house.make()
    for target in ("lint", "unit", "nbval", "browser", "lab", "course", "full", "notebooks"):
        said = house.run("make", "--dry-run", target)
        for line in said.splitlines():
            rest = line.replace(f'"{house.root}', '"')
            assert "My Drive" not in rest, line
            # A script's first line names Python by its whole path, which has the space in it.
            assert not any(word.startswith(".venv/bin/") for word in line.split()) or (
                ".venv/bin/python " in line
            ), line
