"""Rebuild a Colab image as a virtual environment, install the kit on top, and run the course there.

`python tools/replica.py [IMAGE] [--only-build] [--notebooks 01 02]`: IMAGE is a label of helpers/setup/colab_images.json
(default: the newest). The environment has the image's Python, its PyTorch, and the image's version of every package that the
course uses or that PyTorch brings. It stays in build/replica/IMAGE until the next call, which builds it
anew. PyTorch comes from PyPI, so it is a CUDA build (about 3 GB), and not the very one on Colab. Needs uv.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from images import UV

from helpers.errors import CourseError
from helpers.setup import locks

OUT = ROOT / "build" / "replica"


def requirements(packages: dict[str, str]) -> list[str]:
    """``name==version`` lines, without local parts such as +cu128, which PyPI lacks."""
    return [f"{name}=={version.split('+')[0]}" for name, version in sorted(packages.items())]


def uv(*arguments: str | Path) -> None:
    """Run uv; on failure end with what it says."""
    done = subprocess.run([UV, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"uv {' '.join(map(str, arguments[:3]))} failed:\n{done.stderr[-3000:]}")


def find_python(minor: str) -> str:
    """An interpreter of this version: on the path, among pyenv's, or else one that uv downloads."""
    candidates = [shutil.which(f"python{minor}")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout
        candidates += sorted(Path(root.strip(), "versions").glob(f"{minor}.*/bin/python"))
    for candidate in filter(None, candidates):
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.stdout.strip() == minor:
            return str(candidate)
    return minor


def build(label: str, folder: Path) -> Path:
    """The image's packages in a virtual environment; returns its Python."""
    image = locks.images()[label]
    python = folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    minor = ".".join(image["python"].split(".")[:2])
    uv("venv", "--quiet", "--seed", "--python", find_python(minor), folder)
    used = {*locks.pins(ROOT / "requirements" / "requirements-local.txt"), *locks.UNTOUCHED}
    base = {name: version for name, version in image["packages"].items() if name in used}
    wanted, whole = folder / "used.txt", folder / "image.txt"
    wanted.write_text("\n".join(requirements(base)), encoding="utf-8")
    theirs = {n: v for n, v in image["packages"].items() if not n.startswith(("nvidia-", "cuda-"))}
    whole.write_text("\n".join(requirements(theirs)), encoding="utf-8")
    uv("pip", "install", "--python", python, "--no-deps", "-r", wanted)
    # And what these need to be imported at all, in the image's versions but for NVIDIA's libraries: PyPI's
    # PyTorch is built for another CUDA than Colab's.
    roots = requirements({name: base[name] for name in ("torch", "ipykernel", "ipywidgets")})
    uv("pip", "install", "--python", python, "--constraint", whole, *roots)
    return python


def on_colab(folder: Path) -> dict[str, str]:
    """The variables of a Colab machine, with a workspace of its own."""
    return os.environ | {
        "COLAB_RELEASE_TAG": f"replica-{folder.name}",
        "COURSE_WORKSPACE": str(folder / "workspace"),
        "PATH": f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def install_kit(python: Path, folder: Path) -> None:
    """`environment.install()` and the report, as the notebooks' second cell and notebook 01 call them."""
    code = (
        "from helpers.setup import environment; environment.install(); print(environment.check())"
    )
    done = subprocess.run([python, "-c", code], env=on_colab(folder), text=True, check=False)
    if done.returncode:
        sys.exit("The kit could not be installed on the replica.")
    check = [python, "-m", "helpers.setup.environment"]
    if subprocess.run(check, env=on_colab(folder), capture_output=True, check=False).returncode:
        sys.exit("The report on the replica is not clean.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", nargs="?", default=next(iter(locks.images())))
    parser.add_argument("--only-build", action="store_true", help="do not run the notebooks")
    parser.add_argument("--notebooks", nargs="*", default=[], help="default: 01 to 06")
    asked = parser.parse_args()
    if asked.image not in locks.images():
        sys.exit(f"{asked.image} is not known. Known are {', '.join(locks.images())}.")
    folder = OUT / asked.image
    started = time.perf_counter()
    python = build(asked.image, folder)
    print(f"image {asked.image} rebuilt in {time.perf_counter() - started:.0f} s", flush=True)
    started = time.perf_counter()
    install_kit(python, folder)
    print(f"kit installed and checked in {time.perf_counter() - started:.0f} s", flush=True)
    if asked.only_build:
        return
    command = [sys.executable, ROOT / "tools" / "course.py", "--python", python, *asked.notebooks]
    sys.exit(subprocess.run(command, env=on_colab(folder), check=False).returncode)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
