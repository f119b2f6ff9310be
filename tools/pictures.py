"""Bring the README's pictures and its example up to date: they are what the notebooks' saved outputs show.

python tools/pictures.py          docs/loss.png, docs/sliders.png, the answers in README.md
python tools/pictures.py --check  exit 1 if one is another than the saved output

`make pictures` first takes the sliders' picture in a browser; without one in build/browser it stays as it is.
"""

import argparse
import base64
import re
import shutil
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
SCREENSHOT = ROOT / "build" / "browser" / "sliders.png"
QUICKSTART = ROOT / "notebooks" / "00_quickstart.ipynb"
EXAMPLE = re.compile(r"(?s)(<!-- example -->\n).*?(<!-- /example -->)")
CAPTION = "One question, asked before the training and after it (notebook 00, the small model):\n\n"


def output(cell_id: str, kind: str) -> str:
    """What a cell of the quickstart shows, as one kind of data."""
    cells = nbformat.read(QUICKSTART, as_version=4).cells
    (cell,) = [cell for cell in cells if cell.id == cell_id]
    found = [o.data[kind] for o in cell.outputs if kind in o.get("data", {})]
    if not found:
        sys.exit(f"{QUICKSTART.name} has no saved {kind} of {cell_id}: run `make notebooks` first.")
    return found[-1]


def readme(text: str) -> str:
    """The README with the first question of the saved outputs, and both answers."""
    rows = re.findall(r"(?s)<tr>.*?</tr>", output("before-and-after", "text/html"))[:3]
    table = (
        "<table>\n" + "\n".join(re.sub(r' style="[^"]*"', "", row) for row in rows) + "\n</table>\n"
    )
    return EXAMPLE.sub(lambda found: found[1] + CAPTION + table + found[2], text)


def stale() -> list[str]:
    """Which of the files are not what the saved outputs show."""
    text = README.read_text(encoding="utf-8")
    loss = base64.b64decode(output("loss-falls", "image/png"))
    found = [] if (DOCS / "loss.png").read_bytes() == loss else ["docs/loss.png"]
    return found if readme(text) == text else [*found, "README.md"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    if check:
        found = stale()
        sys.exit(f"{', '.join(found)}: run `make pictures`." if found else 0)
    bring_up_to_date()


def bring_up_to_date() -> None:
    """Write what is stale, and take the newest picture of the sliders."""
    (DOCS / "loss.png").write_bytes(base64.b64decode(output("loss-falls", "image/png")))
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    if SCREENSHOT.exists():
        shutil.copy(SCREENSHOT, DOCS / "sliders.png")


if __name__ == "__main__":
    main()
