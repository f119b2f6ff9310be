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
Cells = list[dict]


def compared(outputs: list[dict]) -> dict[str, list[str]]:
    """What nbval compares of a cell's outputs: texts by kind (a stream, a MIME type), sanitised as in `make test`."""
    patterns = get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8"))
    found = defaultdict(list)
    for output in coalesce_streams([nbformat.from_dict(output) for output in outputs]):
        fields = {output.name: output.text} if output.output_type == "stream" else dict(output)
        fields |= fields.pop("data", {})
        for kind, value in fields.items():
            if kind in NOT_COMPARED:
                continue
            for pattern, replacement in patterns if isinstance(value, str) else ():
                value = re.sub(pattern, replacement, value)
            found[kind].append(value)
    return dict(found)


def differences(one: Cells, other: Cells) -> list[tuple[int, str, str]]:
    """Cells without the tag whose outputs differ: number among the code cells, and both texts."""
    found = []
    for number, (ours, theirs) in enumerate(zip(one, other, strict=True)):
        if IGNORE in ours["tags"]:
            continue
        pair = compared(ours["outputs"]), compared(theirs["outputs"])
        if pair[0] != pair[1]:
            found.append((number, *(as_text(each) for each in pair)))
    return found


def as_text(outputs: dict[str, list[str]]) -> str:
    return "\n".join(f"[{kind}] {value}" for kind, values in outputs.items() for value in values)


def saved(path: Path) -> Cells:
    """The code cells of a notebook as they stand in the repository."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return [
        {"source": c.source, "tags": c.metadata.get("tags", []), "outputs": c.outputs}
        for c in cells
    ]


def kept(setting: str, path: Path) -> Cells | None:
    """What a notebook put out in a setting, if it and the helpers are still the same."""
    file = OUT / setting / f"{path.stem}.json"
    stamp = file.with_suffix(".code")
    if not stamp.exists() or stamp.read_text() != record.code_hash(path):
        return None
    return json.loads(file.read_text(encoding="utf-8"))


def run(setting: str, paths: list[Path], python: str) -> None:
    """Run notebooks in a setting, two at a time, and keep their outputs; ends the program if a cell fails."""
    code = {path: record.code_hash(path) for path in paths}
    command = [sys.executable, "-m", "pytest", "-p", "tests.notebooks.alone", "--nbval"]
    command += ["--outputs", OUT / setting, "--kernel-python", python, "-p", "no:cacheprovider"]
    command += ["--nbval-cell-timeout=1800", "-n", "2", "--dist=loadfile", "--no-loadscope-reorder"]
    environment = {"COURSE_SIZE": "test", "HF_HUB_OFFLINE": "1", **SETTINGS[setting]}
    done = subprocess.run([*command, *paths], cwd=ROOT, env=os.environ | environment, check=False)
    if done.returncode:
        sys.exit(f"A cell failed in the setting: {setting}.")
    for path, value in code.items():
        (OUT / setting / f"{path.stem}.code").write_text(value)


def compare_all(paths: list[Path]) -> tuple[list[str], list[str]]:
    """Texts about cells that differ between settings, and from the saved outputs."""
    between, from_saved = [], []
    first, *others = SETTINGS
    for path in paths:
        here = kept(first, path)
        for other in others:
            for number, *pair in differences(here, kept(other, path)):
                between.append(describe(path, number, here, (first, other), pair))
        for number, *pair in differences(saved(path), here):
            from_saved.append(describe(path, number, here, ("saved", first), pair))
    return between, from_saved


def describe(path: Path, number: int, cells: Cells, names: tuple, pair: list[str]) -> str:
    source = cells[number]["source"]
    lines = difflib.unified_diff(*(text.splitlines() for text in pair), *names, lineterm="", n=0)
    head = f"{path.name}, code cell {number}: {source.splitlines()[0] if source else ''}"
    return "\n".join([head, *(f"    {line}" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks, such as 05 (default: all)")
    parser.add_argument("--python", default=sys.executable, help="for the last setting")
    asked = parser.parse_args()
    paths = record.notebooks(asked.names)
    for setting in SETTINGS:
        todo = [path for path in paths if kept(setting, path) is None]
        print(f"{setting}: {len(todo)} of {len(paths)} notebooks to run", flush=True)
        if todo:
            last = setting == list(SETTINGS)[-1]
            run(setting, todo, asked.python if last else sys.executable)
    between, from_saved = compare_all(paths)
    print(*(f"\nnot as saved: {text}" for text in from_saved), sep="\n")
    if between:
        sys.exit("\n\n".join(["\nThese outputs depend on the machine:", *between]))
    print(f"{len(paths)} notebooks put out the same in {len(SETTINGS)} settings.")


if __name__ == "__main__":
    main()
