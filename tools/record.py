"""What the course's own runs measured: minutes, machine and code, in data/measured.json."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "data" / "measured.json"


def read() -> dict:
    """The record, or an empty one."""
    if not FILE.exists():
        return {"notebooks": {}}
    return json.loads(FILE.read_text(encoding="utf-8"))


def notebook_minutes() -> dict[str, float]:
    """Minutes of each notebook at full size on two cores, as far as they were measured."""
    return {name: entry["minutes"] for name, entry in read()["notebooks"].items()}


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The course's notebooks in order: all, or those whose names begin as asked, such as 05."""
    every = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [path for path in every if not names or path.name.startswith(tuple(names))]


def code_hash(notebook: Path) -> str:
    """A short hash of all that decides a notebook's outputs: its code cells, the helpers, the data, the pins.

    The two cells that every notebook opens with are left out: a release changes the address in them.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][2:]
    seen = hashlib.sha256("\0".join(code).encode())
    helpers = (ROOT / "helpers").rglob("*.py")
    data = [path for path in (ROOT / "data").glob("*.json") if path != FILE]
    for path in sorted([*helpers, *data, ROOT / "requirements-local.txt"]):
        seen.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes())
    return seen.hexdigest()[:16]
