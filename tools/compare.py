"""Run the notebooks at test size in several settings, and compare every output that nbval compares.

python tools/compare.py [NAME …]       all notebooks, or some, such as 03
python tools/compare.py --python PATH  the last setting in another Python, such as a Colab replica's

Each notebook runs alone in each setting. Exits with 1, and shows both outputs, where a cell without the tag
nbval-ignore-output puts out something else in one of them: such an output would fail `make test` on some
machines. What the repository's saved outputs have otherwise is said too, but is no failure: a cell may have
changed. A run whose code has not changed since is not repeated.
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbval.plugin import coalesce_streams, get_sanitize_patterns

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import record

OUT = ROOT / "build" / "compare"
SANITIZE = ROOT / "tests" / "notebooks" / "sanitize.cfg"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
# Number format, instructions and threads, each in at least two states. UNSLOTH_CPU_BF16=1 also works on a
# processor without bfloat16, slowly.
SETTINGS = {
    "bfloat16, 2 threads": {"UNSLOTH_CPU_BF16": "1", "OMP_NUM_THREADS": "2"},
    "32 bits, 1 thread": {"UNSLOTH_CPU_BF16": "0", "OMP_NUM_THREADS": "1"},
    "32 bits, AVX2 only, 2 threads": {"UNSLOTH_CPU_BF16": "0", "OMP_NUM_THREADS": "2", **AVX2},
}
# What nbval leaves out, see IPyNbFile.__init__ in nbval/plugin.py.
NOT_COMPARED = {
    *("metadata", "traceback", "prompt_number", "output_type", "name", "execution_count"),
    *("application/vnd.jupyter.widget-view+json", "image/png", "image/jpeg"),
}
IGNORE = "nbval-ignore-output"


class Difference(NamedTuple):
    """A cell that puts out two different things; ``number`` counts code cells from 0."""

    number: int
    source: str
    ours: str
    theirs: str

    def describe(self, path: Path, *names: str) -> str:
        """The notebook, the cell's first line, and the lines that differ, with the names of the two."""
        texts = (text.splitlines() for text in (self.ours, self.theirs))
        lines = difflib.unified_diff(*texts, *names, lineterm="", n=0)
        first = self.source.partition("\n")[0]
        head = f"{path.name}, code cell {self.number}: {first}"
        return "\n".join([head, *(f"    {line}" for line in lines)])


def cells(notebook: nbformat.NotebookNode) -> list[dict]:
    """A notebook's code cells: source, tags and outputs."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        {"source": c.source, "tags": c.metadata.get("tags", []), "outputs": c.outputs} for c in code
    ]


def compared(outputs: list[dict]) -> dict[str, list[str]]:
    """What nbval compares of a cell's outputs: texts by stream or MIME type, sanitised as in `make test`."""
    patterns = get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8"))
    found = defaultdict(list)
    for output in coalesce_streams([nbformat.from_dict(output) for output in outputs]):
        fields = {output.name: output.text} if output.output_type == "stream" else dict(output)
        fields |= fields.pop("data", {})
        for kind in fields.keys() - NOT_COMPARED:
            value = fields[kind]
            for pattern, replacement in patterns if isinstance(value, str) else ():
                value = re.sub(pattern, replacement, value)
            found[kind].append(value)
    return dict(found)


def as_text(outputs: dict[str, list[str]]) -> str:
    """For people, and to be compared."""
    return "\n".join(f"[{kind}] {value}" for kind in sorted(outputs) for value in outputs[kind])


def differences(ours: list[dict], theirs: list[dict]) -> list[Difference]:
    """Cells without the tag whose outputs differ.

    Raises:
        ValueError: the two do not have the same number of cells.
    """
    found = []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if IGNORE in one["tags"]:
            continue
        texts = [as_text(compared(cell["outputs"])) for cell in (one, other)]
        if texts[0] != texts[1]:
            found.append(Difference(number, one["source"], *texts))
    return found


def kept(path: Path, setting: str = next(iter(SETTINGS))) -> list[dict] | None:
    """The cells of a notebook as they ran in a setting, if notebook and helpers are still the same."""
    file = OUT / setting / f"{path.stem}.json"
    stamp = file.with_suffix(".code")
    if not stamp.exists() or stamp.read_text() != record.code_hash(path):
        return None
    return json.loads(file.read_text(encoding="utf-8"))


def run(setting: str, paths: list[Path], python: str) -> None:
    """Run notebooks in a setting and keep their outputs; ends the program if a cell fails.

    As many at once as there are cores for their threads: more would make each several times slower.
    """
    code = {path: record.code_hash(path) for path in paths}
    command = [sys.executable, "-m", "pytest", "-p", "tests.notebooks.alone", "--nbval"]
    # With "=": pytest takes a path that stands alone for one of its arguments, and seeks its root there.
    command += [f"--outputs={OUT / setting}", f"--kernel-python={python}", "-p", "no:cacheprovider"]
    at_once = max(1, len(os.sched_getaffinity(0)) // int(SETTINGS[setting]["OMP_NUM_THREADS"]))
    command += ["--nbval-cell-timeout=1800", "-n", str(at_once)]
    command += ["--dist=loadfile", "--no-loadscope-reorder"]
    environment = {"COURSE_SIZE": "test", "HF_HUB_OFFLINE": "1", **SETTINGS[setting]}
    done = subprocess.run([*command, *paths], cwd=ROOT, env=os.environ | environment, check=False)
    if done.returncode:
        sys.exit(f"A cell failed in the setting: {setting}.")
    for path, value in code.items():
        (OUT / setting / f"{path.stem}.code").write_text(value)


def check(paths: list[Path], python: str = sys.executable) -> None:
    """Run what has changed in each setting, and exit with 1 if an output differs between two of them.

    ``python`` is the interpreter of the last setting's kernels.
    """
    first, *others = SETTINGS
    for setting in SETTINGS:
        todo = [path for path in paths if kept(path, setting) is None]
        print(f"{setting}: {len(todo)} of {len(paths)} notebooks to run", flush=True)
        if todo:
            run(setting, todo, python if setting == others[-1] else sys.executable)
    if changed := [p.name for p in paths if None in (kept(p, setting) for setting in SETTINGS)]:
        sys.exit(f"{', '.join(changed)}: code or helpers changed meanwhile. Run it again.")
    wrong = []
    for path in paths:
        here = kept(path)
        for one in differences(cells(nbformat.read(path, as_version=4)), here):
            print("\nNot as saved:", one.describe(path, "saved", first))
        for other in others:
            found = differences(here, kept(path, other))
            wrong += [one.describe(path, first, other) for one in found]
    if wrong:
        sys.exit("\n\n".join(["\nThese outputs depend on the machine:", *wrong]))
    print(f"{len(paths)} notebooks put out the same in {len(SETTINGS)} settings.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks, such as 05 (default: all)")
    parser.add_argument("--python", default=sys.executable, help="for the last setting")
    asked = parser.parse_args()
    check(record.notebooks(asked.names), asked.python)


if __name__ == "__main__":
    main()
