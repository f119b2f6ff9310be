"""Put a Colab image into `helpers/setup/colab_images.json`: `python tools/images.py LABEL PIP-FREEZE OS-INFO`.

Google publishes both lists of every image (googlecolab/backend-info on GitHub: pip-freeze.gpu.txt and
os-info-gpu.txt). Kept are the image's Python and every package that has a version.
"""

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from helpers.errors import CourseError
from helpers.setup import locks

FILE = ROOT / "helpers" / "setup" / "colab_images.json"
# uv of this environment, else any other.
UV = (
    shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    or "uv"
)
# Colab's lists name some packages by the address of their wheel, at times PyTorch too.
WHEEL = re.compile(r"^([A-Za-z0-9][\w.-]*) @ \S*/[^/\s]+?-(\d[^-/\s]*)-[^/\s]*\.whl", re.MULTILINE)


def read_freeze(path: Path) -> dict[str, str]:
    """Versions of a package list; SystemExit with the reason where it is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path} could not be read: {error}")
    found = {locks.canonical(name): unquote(version) for name, version in WHEEL.findall(text)}
    found |= locks.versions(text)
    if "torch" not in found:
        sys.exit(
            f"{path} is not a Colab package list: it has no line torch==…, nor one with its wheel"
        )
    return found


def read_python(path: Path) -> str:
    """The Python version in Colab's os-info file."""
    try:
        found = re.search(
            r"^Python (\d+\.\d+\.\d+)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path} could not be read: {error}")
    if not found:
        sys.exit(f"{path} names no Python version; it should hold a line such as: Python 3.13.5")
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("label", help="such as 2026-08-19, or 2026.07 for a runtime version")
    parser.add_argument("freeze", type=Path)
    parser.add_argument("os_info", type=Path)
    asked = parser.parse_args()
    # It becomes the name of a folder, which tools/replica.py empties.
    if not re.fullmatch(r"[0-9][\w.-]*", asked.label):
        sys.exit(f"{asked.label} is not a label: write a date or a version, such as 2026-08-19.")
    known = locks.images() if FILE.exists() else {}
    packages = dict(sorted(read_freeze(asked.freeze).items()))
    known[asked.label] = {"python": read_python(asked.os_info), "packages": packages}
    order = sorted(known, key=lambda label: re.findall(r"\d+", label), reverse=True)
    whole = json.dumps({label: known[label] for label in order}, indent=1) + "\n"
    half = FILE.with_suffix(".half")
    half.write_text(whole, encoding="utf-8")
    half.replace(FILE)
    print(
        f"{asked.label}: Python {known[asked.label]['python']}, {len(known[asked.label]['packages'])} packages"
    )


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
