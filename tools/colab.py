"""Run notebooks on a real Colab machine with a T4: `python tools/colab.py [NAME …]`, for a maintainer with an account.

Uses Google's command `colab` (package google-colab-cli, signed in before). Each notebook gets a machine of its
own, as a student's does, and the executed copies come back to build/colab. The command goes on after a cell
that failed and ends without an error, so the copy is searched: exits with 1 and shows the cell if one failed
or was not reached. The machine is given back in any case, after `--minutes` at the latest. A notebook downloads the course at the release's
tag; `--ref BRANCH` makes the copy take another branch or tag, to try a version before its release. Written from
the command's documentation and source (version 0.7.5); it was not run against Google when it was written.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from notebooks import point_at, release

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS, OUT = ROOT / "notebooks", ROOT / "build" / "colab"
SECONDS_A_CELL = 3600


def colab(*arguments: str | Path, seconds: float | None = None) -> int | None:
    """Run `colab`; its exit code, or None where it was still running after so many seconds."""
    command = ["colab", *map(str, arguments)]
    try:
        return subprocess.run(command, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return None


def run(path: Path, gpu: str, ref: str | None, minutes: float) -> str:
    """Execute one notebook on a machine of its own; what went wrong, or nothing."""
    session = f"lora-course-{path.stem[:2]}"
    copy = OUT / path.name
    executed = copy.with_name(f"{path.stem}_output.ipynb")
    executed.unlink(missing_ok=True)
    bare = nbformat.read(path, as_version=4)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    if ref:
        point_at(bare, path.name, release()[0], ref)
    nbformat.write(bare, copy)
    # `colab new` forgets a machine of the same name, which then could not be given back.
    colab("stop", "-s", session)
    if colab("new", "-s", session, "--gpu", gpu):
        return (
            f"no machine with a {gpu}: the free quota may be used up, or `colab` is not signed in"
        )
    try:
        # Its own --timeout does not end a cell that hangs.
        command = ("exec", "-s", session, "-f", copy, "--timeout", SECONDS_A_CELL)
        code = colab(*command, seconds=60 * minutes)
    finally:
        given_back = colab("stop", "-s", session) == 0
    ended = "did not end in time" if code is None else f"ended with code {code}"
    wrong = [f"`colab exec` {ended}"] if code != 0 else []
    if not executed.exists():
        wrong.append("`colab exec` brought no notebook back")
    elif found := failure(nbformat.read(path, as_version=4), nbformat.read(executed, as_version=4)):
        wrong.insert(0, found)
    if not given_back:
        wrong.append(
            f"the machine may still run: see `colab sessions`, then `colab stop -s {session}`"
        )
    return "\n".join(wrong)


def failure(saved: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> str:
    """The first cell that failed, or that was not reached: it shows nothing, but does in the saved notebook."""
    for number, cell in enumerate(executed.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {number}:\n{cell.source}\n\n{output.ename}: {output.evalue}"
    if len(executed.cells) != len(saved.cells):
        return f"{len(executed.cells)} cells came back, the notebook has {len(saved.cells)}"
    for number, (before, cell) in enumerate(zip(saved.cells, executed.cells, strict=True)):
        if before.get("outputs") and not cell.get("outputs"):
            return f"cell {number} was not reached:\n{cell.source}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="such as 05 (default: all)")
    parser.add_argument("--gpu", default="T4")
    parser.add_argument("--ref", help="branch or tag to test (default: the release's)")
    parser.add_argument("--minutes", type=float, default=90, help="for one notebook (90)")
    asked = parser.parse_args()
    if not shutil.which("colab"):
        sys.exit(
            "The command `colab` is absent: uv tool install google-colab-cli, then sign in with it."
        )
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if asked.names:
        paths = [path for path in paths if path.name.startswith(tuple(asked.names))]
    if not paths:
        sys.exit(f"No notebook begins with {' or '.join(asked.names)}.")
    OUT.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in paths:
        wrong = run(path, asked.gpu, asked.ref, asked.minutes)
        failed += bool(wrong)
        print(f"{'[FAILED]' if wrong else '[OK]    '} {path.stem} {wrong}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
