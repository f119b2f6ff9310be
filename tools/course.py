"""Run the course's notebooks in order, each in a kernel of its own, and print what came out of it.

python tools/course.py [NAME …]           executed copies go to build/course/
python tools/course.py --full             all, at full size, from an empty workspace; noted in data/measured.json
python tools/course.py --in-place [NAME …]  the same, and the outputs go into the repository's notebooks
python tools/course.py --python PATH      the kernels run in another Python, such as a Colab replica's

Exits with 1, and shows the cell and its error, when a cell fails. --in-place ends with the cells that have no saved
output yet.
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import notebook_kernels
import record

from helpers import runs, settings, workspace

NOTEBOOKS = ROOT / "notebooks"
OUT = ROOT / "build" / "course"
CELL_TIMEOUT = 2 * 3600


def client_for(
    notebook: nbformat.NotebookNode, timeout: int, python: str = sys.executable
) -> NotebookClient:
    """A client whose kernel talks through local sockets: no ports that other kernels might take."""
    manager = AsyncKernelManager(kernel_name="python3", **notebook_kernels.sockets())
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


def run(source: Path, target: Path, python: str = sys.executable) -> float:
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


def show_results(minutes: dict[str, float]) -> None:
    """The closing table, if notebook 06 ran and left its results in this workspace."""
    run = runs.latest()
    results = run and workspace.read_json(run.folder / "results.json")
    if results and any(name.startswith("06") for name in minutes):
        show(results, minutes)


def note_unsaved() -> None:
    """Say which cells of the repository's notebooks show something but have no saved output.

    A widget's picture, for instance, is drawn by another step: nothing has failed.
    """
    # Not above: it needs nbconvert, and a GPU machine that only runs notebooks may lack that.
    import notebooks

    if missing := notebooks.all_unsaved(record.notebooks()):
        print("\nDone; but these cells show something and have no saved output yet:")
        for path, numbers in missing.items():
            print(f"  {path.name}: cell {', '.join(map(str, numbers))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks, such as 05 (default: 01 to 06)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    asked = parser.parse_args()
    # Kernels run in notebooks/: a path that was given from here would mean another file there.
    for name in ("COURSE_TEST_SET", "COURSE_HELDOUT", "COURSE_WORKSPACE"):
        settings.path(name)
    if asked.full or asked.in_place:
        import fresh

        minutes = fresh.renew(asked.names) if asked.in_place else fresh.run_all(asked.python)
    else:
        print("preparing the model …", flush=True)
        notebook_kernels.prepare_model(asked.python)
        wanted = asked.names or ("01", "02", "03", "04", "05", "06")
        paths = record.notebooks(wanted)
        minutes = {path.stem: run(path, OUT / path.name, asked.python) for path in paths}
    show_results(minutes)
    if asked.in_place:
        note_unsaved()


if __name__ == "__main__":
    main()
