"""Run the course's notebooks in order, each in a kernel of its own, and print what came out of it.

python tools/course.py [NAME …]      executed copies go to build/course/
python tools/course.py --in-place    refresh the outputs that stand in the repository
python tools/course.py --alone       each notebook in an empty workspace of its own
python tools/course.py --python PATH the kernels run in another Python, such as a Colab replica's

Exits with 1, and shows the cell and its error, when a cell fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
OUT = ROOT / "build" / "course"
CELL_TIMEOUT = 3600
# Threads that wait give their core away soon; else two kernels at once run many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def client_for(
    notebook: nbformat.NotebookNode, timeout: int, python: str = sys.executable
) -> NotebookClient:
    """A client whose kernel talks through local sockets: no ports that other kernels might take."""
    sockets = Path(tempfile.mkdtemp()) / "kernel"
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(sockets))
    manager.kernel_spec.argv[0] = python
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout,
        resources={"metadata": {"path": NOTEBOOKS}},
    )
    # Else a kernel that was given lives on, with its model, until this process ends.
    client.owns_km = True
    return client


def run(source: Path, target: Path, python: str) -> float:
    """Execute one notebook and write it to ``target``, also when a cell fails. Returns minutes."""
    notebook = nbformat.read(source, as_version=4)
    client = client_for(notebook, CELL_TIMEOUT, python)
    started = time.perf_counter()
    print(f"{source.stem:<24}", end="", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        # What a kernel itself says, not its cells, is for whoever looks for the cause of a crash.
        with (OUT / "kernels.log").open("a", encoding="utf-8") as log:
            client.execute(stdout=log, stderr=log)
    except CellExecutionError as error:
        print("failed")
        number = next(
            i
            for i, cell in enumerate(notebook.cells)
            if any(map(_is_error, cell.get("outputs", [])))
        )
        cell = notebook.cells[number]
        sys.exit(
            f"\nCell {number} of {source.name}:\n\n{cell.source}\n\n{error.ename}: {error.evalue}"
        )
    finally:
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:5.1f} min", flush=True)
    return minutes


def _is_error(output: nbformat.NotebookNode) -> bool:
    return output.output_type == "error"


def prepare_model(python: str) -> None:
    """Make the small model now, so that its minute is not counted as the first notebook's."""
    code = "from helpers import models; models.locate()"
    print("preparing the model …", flush=True)
    done = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])


def show(results: dict, minutes: dict[str, float]) -> None:
    """The closing table, from what notebook 06 measured."""

    def interval(m: dict) -> str:
        return f"{m['mean']:.2f} ({m['low']:.2f} to {m['high']:.2f}, n = {m['count']})"

    rows = [
        ("trainable parameters", f"{results['trainable']:,}"),
        ("  Llama-2-7B, same r", f"{results['trainable_llama_2_7b']:,}"),
        ("held-out loss before", interval(results["loss_before"])),
        ("held-out loss after", interval(results["loss_after"])),
        ("chrF before", interval(results["chrf_before"])),
        ("chrF after", interval(results["chrf_after"])),
        ("minutes of training", f"{results['minutes']:.1f}"),
        ("minutes in all", f"{sum(minutes.values()):.1f}"),
    ]
    print("\nMean with 95 % interval")
    for name, value in rows:
        print(f"  {name:<22} {value}")
    for example in results["examples"]:
        print(f"\n{example['question']}\n  before  {_indent(example['before'])}")
        print(f"  after   {_indent(example['after'])}")


def _indent(text: str) -> str:
    return text.replace("\n", "\n          ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks, such as 05 (default: 01 to 06)")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    wanted = tuple(arguments.names)
    if not wanted and not arguments.in_place and not arguments.alone:
        wanted = ("01", "02", "03", "04", "05", "06")
    chosen = [path for path in every if not wanted or path.name.startswith(wanted)]
    minutes = {}
    # Kernels run in notebooks/: a path that was given from here would mean another file there.
    for name in ("COURSE_TEST_SET", "COURSE_WORKSPACE"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().resolve())
    if not arguments.alone:
        prepare_model(arguments.python)
    for path in chosen:
        target = path if arguments.in_place else OUT / path.name
        if arguments.alone:
            with tempfile.TemporaryDirectory() as empty:
                os.environ["COURSE_WORKSPACE"] = empty
                minutes[path.stem] = run(path, OUT / "alone" / path.name, arguments.python)
        else:
            minutes[path.stem] = run(path, target, arguments.python)
    if any(name.startswith("06") for name in minutes) and not arguments.alone:
        sys.path.insert(0, str(ROOT))
        from helpers import workspace

        results = json.loads(workspace.path("results.json").read_text(encoding="utf-8"))
        show(results, minutes)


if __name__ == "__main__":
    main()
