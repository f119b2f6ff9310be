"""Write the map of the helpers: which notebooks import each, here and in CONTRIBUTING.md.

python tools/map.py     after a helper is added, renamed or imported elsewhere

The docstring of helpers/__init__.py is the map: one line a file, what it is for, the notebooks. A new file needs its
line there; the notebooks' numbers and CONTRIBUTING's tables follow.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"(?m)^    (\S+) {2,}(\S.*?) {2,}\S.*$")
HERE, THERE = ROOT / "helpers" / "__init__.py", ROOT / "CONTRIBUTING.md"


def code(notebook: Path) -> str:
    """A notebook's code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def used_in(name: str, notebooks: dict[str, str]) -> str:
    """The numbers of the notebooks that import a helper."""
    package, _, file = f"helpers.{name}".rpartition(".")
    pattern = rf"(?m)^ *from (helpers\.{name} import|{package} import (\([^)]*|.*)\b{file}\b)"
    found = [number for number, source in notebooks.items() if re.search(pattern, source)]
    return "all" if len(found) == len(notebooks) else " ".join(sorted(found)) or "–"


def rewritten() -> tuple[str, str]:
    """Both files as they should be."""
    notebooks = {path.name[:2]: code(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    text = HERE.read_text(encoding="utf-8")
    uses = {name: used_in(name, notebooks) for name, _ in LINE.findall(text)}
    here = LINE.sub(lambda m: f"    {m[1]:<20}{m[2]:<76}{uses[m[1]]}", text)
    there = THERE.read_text(encoding="utf-8")
    # Each run of lines in the docstring is one table in CONTRIBUTING.
    tables = [LINE.findall(part) for part in here.split("\n\n") if LINE.search(part)]
    rows = iter(["\n".join(_row(*line, uses) for line in table) for table in tables])
    pattern = r"(?m)(^\| file \| what it is for \| notebooks \|\n\|.*\n)(?:\| .*\n?)+"
    return here, re.sub(pattern, lambda m: f"{m[1]}{next(rows)}\n", there)


def _row(name: str, purpose: str, uses: dict[str, str]) -> str:
    marked = re.sub(r"\b(CourseError|COURSE_…)(?!\w)", r"`\1`", purpose)
    return f"| `{name.replace('.', '/')}.py` | {marked} | {uses[name]} |"


def main() -> None:
    for path, text in zip((HERE, THERE), rewritten(), strict=True):
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print("rewrote", path.relative_to(ROOT))


if __name__ == "__main__":
    main()
