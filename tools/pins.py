"""Resolve the two lock files from their .in files: `python tools/pins.py [IMAGE]`, and print what changed.

IMAGE is a known label (default: the newest) or the file of a `pip freeze` (with its Python, as for
tools/drift.py). Every package that the Colab image already holds keeps the image's version where the
requirements allow it, so that the lock for Colab is short: it lists what must be added or replaced, with
hashes. The local lock is the same set plus what a Colab machine brings along. Neither is written unless both
could be resolved.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from drift import blocks, read_image
from images import UV

from helpers.errors import CourseError
from helpers.setup import locks

COLAB, LOCAL = "requirements/requirements-colab.in", "requirements/requirements-local.in"
OVERRIDES = ROOT / "requirements" / "requirements-overrides.txt"
# Never replaced on Colab: compiled neighbours depend on them, and numpy is loaded before any cell runs.
UNTOUCHED = re.compile(r"(torch|torchvision|torchaudio|triton|numpy|cuda-.*|nvidia-.*)$")
# Colab removes jedi on purpose, and pip freeze does not list setuptools.
NOT_OURS = {"jedi", "setuptools"}
# Listed although the image has them, so that a later image that moves them is noticed.
ALWAYS = {"matplotlib", "ipywidgets"}
JUPYTER = {"ipython", "ipywidgets", "ipykernel", "jupyter-client", "pyzmq", "tornado", "traitlets"}


def compile_lock(names: list[str], prefer: dict[str, str], python: str) -> dict[str, str]:
    """Resolve requirements files; ``prefer`` holds versions to keep where they are allowed.

    Returns each requirement with its hash lines, by package name.
    """
    sources = [str(ROOT / name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock.txt"
        out.write_text("".join(f"{n}=={v}\n" for n, v in prefer.items()))
        options = ["--python", sys.executable, "--python-version", python]
        options += ["--python-platform", "x86_64-manylinux_2_28"]
        # The last file may contradict the first: ipywidgets differs between Colab and JupyterLab 4.
        for path in (str(OVERRIDES), sources[-1]):
            options += ["--override", path]
        options += ["--no-header", "--no-annotate", "--generate-hashes"]
        command = [UV, "pip", "compile", "--quiet", *options, *sources, "-o", str(out)]
        if subprocess.run(command, check=False).returncode:
            sys.exit(
                f"{' and '.join(names)} could not be resolved: uv says why. No lock was changed."
            )
        return blocks(out.read_text())


def write(name: str, notes: list[str], requirements: list[str]) -> None:
    """Write a lock file, and print how it differs from the one before."""
    file = ROOT / name
    before = locks.versions(file.read_text(encoding="utf-8")) if file.exists() else {}
    head = "".join(f"# {note}\n" for note in ["Made by `make pins`.", *notes])
    file.write_text(head + "".join(requirements), encoding="utf-8")
    after = locks.pins(file)
    changed = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]
    print(f"{name}: {len(after)} pins, {len(changed)} changed")
    for package in changed:
        print(
            f"  {package:<24} {before.get(package, 'absent'):<14} -> {after.get(package, 'absent')}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    newest = next(iter(locks.images()))
    parser.add_argument("image", nargs="?", default=newest, help="a known label, or a pip freeze")
    parser.add_argument("--python", help="the Python of a pip freeze, such as 3.13")
    asked = parser.parse_args()
    target = read_image(asked.image, asked.python)
    image = target.image
    colab = compile_lock([COLAB], image, target.minor)
    needed = {n: b for n, b in colab.items() if not UNTOUCHED.match(n) and n not in NOT_OURS}
    top = [b for n, b in needed.items() if n in ALWAYS or locks.versions(b)[n] != image.get(n)]
    kept = [f"{name}=={image[name]}" for name in locks.UNTOUCHED if name in image]
    kept.append(f"Python {target.python}")
    notes = ["Install with --no-deps --require-hashes.", f"proven with {', '.join(kept)}"]
    libraries = [f"{name}=={image[name]}" for name in sorted(image) if name.startswith("nvidia-")]
    notes += [f"NVIDIA's libraries on that image: {', '.join(libraries)}"] if libraries else []

    # The model packages as on Colab; Jupyter and the test tools as before, unless something asks for newer.
    before = ROOT / "requirements" / "requirements-local.txt"
    # Only a preference: a list that is absent or damaged is made anew.
    prefer = locks.versions(before.read_text(encoding="utf-8")) if before.exists() else {}
    prefer |= {n: locks.versions(b)[n] for n, b in needed.items() if n not in JUPYTER}
    local = compile_lock([COLAB, LOCAL], prefer, "3.11")
    write("requirements-colab.txt", notes, top)
    beside_torch = [b for n, b in local.items() if n == "numpy" or not UNTOUCHED.match(n)]
    write("requirements/requirements-local.txt", ["`make` installs torch beside it."], beside_torch)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
