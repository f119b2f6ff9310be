"""Keep the notebooks clean and consistent.

python tools/notebooks.py clean [FILE …]         strip what should not be in the repository
python tools/notebooks.py badges OWNER/NAME REF  point every notebook and the README at a release
python tools/notebooks.py check                  exit 1 if either is not so
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from helpers import workspace

NOTEBOOKS = ROOT / "notebooks"
# These train or answer with a model; the others are happy on a CPU machine.
NEED_GPU = ("00", "01", "02", "05", "06", "07")

GET_THE_KIT = """\
# Get the course: use the checkout this notebook stands in, else download the release.
import pathlib
import subprocess
import sys

REPO, REF = "https://github.com/{repo}", "{ref}"
here = pathlib.Path.cwd()
places = [here, *here.parents, here / f"lora-course-{{REF}}"]
kit = next((place for place in places if (place / "helpers" / "presets.py").is_file()), places[-1])
download = ["git", "clone", "--quiet", "--depth", "1", "--branch", REF, REPO, str(kit)]
if not kit.exists() and subprocess.run(download, check=False).returncode:
    raise SystemExit(f"{{REPO}} at {{REF}} could not be downloaded: check the network, run this again.")
sys.path.insert(0, str(kit))"""
CHECK_THE_MACHINE = """\
# Check this machine, and install what it lacks.
from helpers import environment, workspace

environment.install()
print(workspace.describe())"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repo}/blob/{ref}/notebooks/{name})"
)
BADGE_PATTERN = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*/notebooks/([\w.]+)\)")
# Where this machine keeps its workspace is nobody else's business.
WORKSPACE_PATH = re.compile(re.escape(str(workspace.root().resolve())))
IGNORE = "nbval-ignore-output"


def paths() -> list[Path]:
    """All course notebooks in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def clean(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Strip execution counts, timings, widgets and their state, progress bars and warnings; join what a cell
    printed; set the metadata."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [output for output in cell.outputs if not _is_noise(output)]
        CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)
        for output in cell.outputs:
            if "text" in output:
                output.text = WORKSPACE_PATH.sub("workspace", output.text)
            if "execution_count" in output:
                output.execution_count = None
            output.pop("metadata", None) if output.output_type == "stream" else None
    colab = {"gpuType": "T4"} if name.startswith(NEED_GPU) else {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "colab": colab}
    if name.startswith(NEED_GPU):
        metadata["accelerator"] = "GPU"
    notebook.metadata = nbformat.from_dict(metadata)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    return notebook


def _is_noise(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    # GitHub and nbval show no widgets; a progress bar of tqdm is one.
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def point_at(notebook: nbformat.NotebookNode, name: str, repo: str, ref: str) -> None:
    """Write the badge under the title and the two opening cells."""
    badge = BADGE.format(repo=repo, ref=ref, name=name)
    title, *rest = notebook.cells[0].source.split("\n")
    if any(BADGE_PATTERN.search(line) for line in rest):
        rest = [BADGE_PATTERN.sub(badge, line) for line in rest]
    else:
        rest = ["", badge, *rest]
    notebook.cells[0].source = "\n".join([title, *rest])
    first, second = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    first.source, second.source = GET_THE_KIT.format(repo=repo, ref=ref), CHECK_THE_MACHINE
    first.metadata.tags = second.metadata.tags = [IGNORE]


def release() -> tuple[str, str]:
    """``(owner/name, ref)`` that the first notebook points at."""
    text = paths()[0].read_text(encoding="utf-8")
    found = re.search(r'REPO, REF = \\"https://github.com/([^"\\]+)\\", \\"([^"\\]+)\\"', text)
    if not found:
        sys.exit(f"{paths()[0].name} has no opening cell that names a repository and a release")
    return found[1], found[2]


def rewritten(path: Path, repo: str, ref: str) -> str:
    """A notebook's text as it should be."""
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    point_at(notebook, path.name, repo, ref)
    return nbformat.writes(clean(notebook, path.name), indent=1) + "\n"


def readme(repo: str, ref: str) -> str:
    """The README's text with every badge pointing at the release."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return BADGE_PATTERN.sub(lambda m: BADGE.format(repo=repo, ref=ref, name=m[1]), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("clean", "badges", "check"))
    parser.add_argument("values", nargs="*")
    arguments = parser.parse_args()
    if arguments.action == "badges":
        if len(arguments.values) != 2 or arguments.values[0].count("/") != 1:
            parser.error("badges needs OWNER/NAME and REF")
        repo, ref = arguments.values
    else:
        repo, ref = release()
    chosen = paths()
    if arguments.action == "clean" and arguments.values:
        chosen = [Path(value).resolve() for value in arguments.values]
    wanted = {path: rewritten(path, repo, ref) for path in chosen}
    if arguments.action != "clean":
        wanted[ROOT / "README.md"] = readme(repo, ref)
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    if arguments.action == "check" and stale:
        sys.exit("not clean: " + ", ".join(path.name for path in stale) + ". Run `make badges`.")
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print("rewrote", path.name)


if __name__ == "__main__":
    main()
