"""Resolve the two lock files from their .in files: `python tools/pins.py IMAGE-PACKAGE-LIST`.

Every package that the Colab image already holds keeps the image's version where the requirements allow
it, so that the lock for Colab is short: it lists what must be added or replaced, with hashes. The local
lock is the same set plus what a Colab machine brings along.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
OVERRIDES = ROOT / "requirements-overrides.txt"
# Never replaced on Colab: compiled neighbours depend on them, and numpy is loaded before any cell runs.
UNTOUCHED = re.compile(r"(torch|torchvision|torchaudio|triton|numpy|cuda-.*|nvidia-.*)$")
# Colab removes jedi on purpose, and pip freeze does not list setuptools.
NOT_OURS = {"jedi", "setuptools"}
# Listed although the image has them, so that a later image that moves them is noticed.
ALWAYS = {"matplotlib", "ipywidgets"}
JUPYTER = {"ipython", "ipywidgets", "ipykernel", "jupyter-client", "pyzmq", "tornado", "traitlets"}


def canonical(name: str) -> str:
    """Package name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(text: str) -> dict[str, str]:
    """``{name: version}`` of the ``name==version`` lines of a pip freeze or requirements file."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    return {canonical(name): version for name, version in found}


def compile_lock(names: list[str], prefer: dict[str, str], python: str) -> dict[str, str]:
    """Resolve requirements files; ``prefer`` holds versions to keep where they are allowed.

    Returns each requirement with its hash lines, by package name.
    """
    sources = [str(ROOT / name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock.txt"
        out.write_text("".join(f"{n}=={v}\n" for n, v in prefer.items()))
        options = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
        # The last file may contradict the first: ipywidgets differs between Colab and JupyterLab 4.
        for path in (str(OVERRIDES), sources[-1]):
            options += ["--override", path]
        options += ["--no-header", "--no-annotate", "--generate-hashes"]
        command = ["uv", "pip", "compile", "--quiet", *options, *sources, "-o", str(out)]
        subprocess.run(command, check=True)
        parts = re.split(r"^(?=[A-Za-z0-9])", out.read_text(), flags=re.MULTILINE)
    return {next(iter(versions(part))): part for part in parts if versions(part)}


def write(name: str, note: str, requirements: list[str]) -> None:
    (ROOT / name).write_text(f"# Made by `make pins`: {note}.\n" + "".join(requirements))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", type=Path, help="pip freeze of a Colab image")
    image = versions(parser.parse_args().image.read_text())
    colab = compile_lock(["requirements-colab.in"], image, "3.13")
    needed = {n: b for n, b in colab.items() if not UNTOUCHED.match(n) and n not in NOT_OURS}
    top = [b for n, b in needed.items() if n in ALWAYS or versions(b)[n] != image.get(n)]
    write("requirements-colab.txt", "install with --no-deps --require-hashes", top)

    # The model packages as on Colab; Jupyter itself as new as it comes.
    prefer = {n: versions(b)[n] for n, b in needed.items() if n not in JUPYTER}
    local = compile_lock(["requirements-colab.in", "requirements-local.in"], prefer, "3.11")
    beside_torch = [b for n, b in local.items() if n == "numpy" or not UNTOUCHED.match(n)]
    write("requirements-local.txt", "`make` installs torch beside it", beside_torch)


if __name__ == "__main__":
    main()
