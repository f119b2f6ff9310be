"""Keep the notebooks clean and consistent.

python tools/notebooks.py clean [FILE …]         strip what should not be there; all: the README's badges too
python tools/notebooks.py badges OWNER/NAME REF  point every notebook and the README at a release
python tools/notebooks.py unsaved                exit 1 if a cell that shows something has no saved output
python tools/notebooks.py check                  exit 1 if either is not so
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import record

from helpers import settings

# These train or answer with a model; the others are happy on a CPU machine.
NEED_GPU = ("00", "01", "02", "05", "06", "07")

# GitHub allows no underscore in an owner's name: until a release names one, nobody can serve code from there.
PLACEHOLDER = "_owner_/lora-course"
WIDGET = "application/vnd.jupyter.widget-view+json"
REPO = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
REF = re.compile(r"[A-Za-z0-9][\w.-]{0,60}", re.ASCII)

# An unfinished download or unpacking is never taken for the course: it is moved into its place when it is whole.
GET_THE_KIT = """\
# Get the course: the folder this notebook is in, else release REF (its zip here or in Drive, or the
# repository). Only where that cannot be had: the newest other zip.
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO, REF = "https://github.com/{repo}", "{ref}"
repo = os.environ.get("COURSE_REPO", "").strip("\\"' ") or REPO
git = ["env", "GIT_TERMINAL_PROMPT=0", "git", "clone", "-q", "--depth=1", "--branch", REF]
here, drive = Path.cwd(), Path("/content/drive/MyDrive")
mine, why = here / f"lora-course-{{REF}}", ""
zips = [z for p in (here, drive, drive / "lora-course") for z in p.glob("lora-course-*.zip")]
ways = [(here / re.split("[ (]", z.stem)[0], z) for z in zips] + [(mine, repo)]
ways.sort(key=lambda w: (w[0] == mine, *map(int, re.findall(r"\\d+", w[0].name))), reverse=True)
for kit, source in [(p, None) for p in (here, *here.parents)] + ways:
    if source and not any(kit.glob("*")):
        with tempfile.TemporaryDirectory(dir=here) as new:
            get = git if source == repo else [sys.executable, "-m", "zipfile", "-e"]
            done = subprocess.run([*get, source, f"{{new}}/kit"], capture_output=True, text=True)
            for file in [] if done.returncode else [*Path(new).glob("**/helpers/presets.py")][:1]:
                file.parents[1].rename(kit)
        why += " ".join([*re.findall(r"(?m)^[\\w.]+: .+", done.stderr), ""])
    if (kit / "helpers" / "presets.py").is_file():
        break
else:
    why = why or "no whole course in it. "
    raise SystemExit(f"No {{mine.name}}: {{why}}Put its zip here or in Drive; delete a broken one.")
sys.path.insert(0, str(kit))
other = kit.name.startswith("lora-course-") and kit.name != mine.name
note = f", another version: this notebook is for {{REF}}. {{why}}" if other else ""
print(f"Course: {{kit}}{{note}}".strip())"""
CHECK_THE_MACHINE = """\
# Check this machine, and install what it lacks.
from helpers import workspace
from helpers.setup import environment

keep_my_work_on_google_drive = False  # @param {type:"boolean"}
environment.install()
print(workspace.describe(on_drive=keep_my_work_on_google_drive))"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repo}/blob/{ref}/notebooks/{name})"
)
BADGE_PATTERN = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*/notebooks/([\w.]+)\)")
IGNORE = "nbval-ignore-output"
# Ids of the cells that all notebooks open with.
OPENING = ("title", "set-up", "get-the-course", "install-what-is-missing")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{27})?|(?=.*[0-9A-Z_])[\w-]{12}|cell-\d+")


def clean(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Strip execution counts, timings, widgets and their state, progress bars and warnings; join what a cell
    printed; set the metadata."""
    places = _workspaces(notebook)
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
                output.text = _without_paths(output.text, places)
            if "text/plain" in output.get("data", {}):
                output.data["text/plain"] = _without_paths(output.data["text/plain"], places)
            output.get("data", {}).pop(WIDGET, None)
            if "execution_count" in output:
                output.execution_count = None
            output.pop("metadata", None) if output.output_type == "stream" else None
    colab = {"gpuType": "T4"} if name.startswith(NEED_GPU) else {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "colab": colab}
    if name.startswith(NEED_GPU):
        metadata["accelerator"] = "GPU"
    notebook.metadata = nbformat.from_dict(metadata)
    name_cells(notebook)
    return notebook


def name_cells(notebook: nbformat.NotebookNode) -> None:
    """Give each cell an id in words. One that it has stays: its check (tests/notebooks/checks) is found by it."""
    taken = [cell.id for cell in notebook.cells]
    for cell in notebook.cells:
        # What JupyterLab and Colab give: random letters and digits.
        if cell.id in OPENING or not (RANDOM.fullmatch(cell.id) or taken.count(cell.id) > 1):
            continue
        words = re.findall(r"[a-z0-9]+", cell.source.lower())
        name = "-".join(words[:4])[:30].strip("-") or "empty"
        number = next(n for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
        cell.id = name if name not in taken else f"{name}-{number}"
        taken.append(cell.id)


def _workspaces(notebook: nbformat.NotebookNode) -> list[str]:
    """Where this notebook's outputs may say that the workspace is, longest first.

    The second cell prints it. Where it lies on the machine that made the outputs is nobody else's business.
    """
    printed = [o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", [])]
    said = re.findall(
        r"^Workspace: (.+?)(?:/ in the course|, gone with .*)?$", "\n".join(printed), re.MULTILINE
    )
    # Joined to an absolute path, ROOT has no say.
    found = {ROOT / place for place in said} | {ROOT / "workspace"}
    if named := settings.path("COURSE_WORKSPACE"):
        found |= {named, named.resolve()}
    return sorted(map(str, found), key=len, reverse=True)


def _without_paths(text: str, places: list[str]) -> str:
    """A text in which the workspace is called so, wherever it was."""
    text = re.sub(
        r"^Workspace: .*", "Workspace: workspace/ in the course", text, flags=re.MULTILINE
    )
    return re.sub(
        rf"(?:{'|'.join(map(re.escape, places))})(?=[/\s,:;.'\")\]]|$)", "workspace", text
    )


def _is_noise(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    # GitHub and nbval show no widgets. The course's leave a still picture; a progress bar of tqdm does not.
    data = output.get("data", {})
    return WIDGET in data and "image/png" not in data


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
    # It names a folder of the machine it ran on.
    first.outputs = []


def shows_something(source: str) -> bool:
    """Whether a cell prints, draws or ends with a value: then it has to have an output.

    What is printed inside a function or caught in a buffer does not count; a widget's picture does.
    """
    lines = source.splitlines()
    tree = ast.parse(
        "\n".join("pass" if line.lstrip().startswith(("!", "%")) else line for line in lines)
    )
    body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = [node for part in body for node in ast.walk(part) if isinstance(node, ast.Call)]
    return isinstance(tree.body[-1], ast.Expr) or any(
        getattr(call.func, "id", "") in ("print", "display") for call in calls
    )


def unsaved(notebook: nbformat.NotebookNode) -> list[int]:
    """Numbers of the cells that show something and have no saved output. The first code cell only gets the kit."""
    code = [(n, cell) for n, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    return [n for n, cell in code[1:] if not cell.outputs and shows_something(cell.source)]


def all_unsaved(paths: Iterable[Path]) -> dict[Path, list[int]]:
    """The same of several files: only those where an output is missing."""
    found = {path: unsaved(nbformat.read(path, as_version=4)) for path in paths}
    return {path: numbers for path, numbers in found.items() if numbers}


def release() -> tuple[str, str]:
    """``(owner/name, ref)`` that the first notebook points at."""
    first = record.notebooks()[0]
    text = first.read_text(encoding="utf-8")
    found = re.search(r'REPO, REF = \\"https://github.com/([^"\\]+)\\", \\"([^"\\]+)\\"', text)
    if not found:
        sys.exit(f"{first.name} has no opening cell that names a repository and a release")
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


def valid(repo: str, ref: str) -> str:
    """Why a repository and a tag cannot be a release's; empty if they can. They become a part of a cell."""
    if repo != PLACEHOLDER and not REPO.fullmatch(repo):
        return f"{repo} is no repository on GitHub: OWNER/NAME, in letters, digits and hyphens."
    if not REF.fullmatch(ref) or ".." in ref or ref.endswith((".", ".lock")):
        return f"{ref} is no name for a release: a tag such as v2, of letters, digits, dots and hyphens."
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("clean", "badges", "check", "unsaved"))
    parser.add_argument("values", nargs="*")
    arguments = parser.parse_args()
    chosen = record.notebooks()
    if arguments.action in ("clean", "unsaved") and arguments.values:
        chosen = [Path(value).resolve() for value in arguments.values]
    if arguments.action == "unsaved":
        wrong = [f"{path.name}, cells {numbers}" for path, numbers in all_unsaved(chosen).items()]
        sys.exit("No saved output: " + "; ".join(wrong) if wrong else 0)
    repo, ref = release()
    if arguments.action == "badges":
        if len(arguments.values) != 2:
            parser.error("badges needs OWNER/NAME and REF")
        repo, ref = arguments.values
        if wrong := valid(repo, ref):
            parser.error(wrong)
    wanted = {path: rewritten(path, repo, ref) for path in chosen}
    if len(chosen) == len(record.notebooks()):
        wanted[ROOT / "README.md"] = readme(repo, ref)
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    if arguments.action == "check" and stale:
        sys.exit(
            "not clean: "
            + ", ".join(path.name for path in stale)
            + ". Run `.venv/bin/python tools/notebooks.py clean`."
        )
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print("rewrote", path.name)


if __name__ == "__main__":
    main()
