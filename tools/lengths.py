"""How long the notebooks are: cells, lines, words, and minutes of reading.

python tools/lengths.py

Words are those of the text cells, badge and formulas left out; reading counts 150 of them a minute. The opening cells,
which are the same everywhere, count in "a line" only. From a heading that begins with "Deeper" on, nothing is on the course's
core path.
"""

import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import record

WORDS_A_MINUTE = 150
DEEPER = re.compile(r"(?m)^#+ Deeper\b")
# The badge, formulas, addresses and rules of tables are not read word by word.
UNREAD = re.compile(r"\[!\[.*?\]\(.*?\)\]\(.*?\)|\$[^$]*\$|\]\([^)]*\)|\|[-| :]+\|", re.DOTALL)


@dataclass(frozen=True)
class Length:
    """The length of a notebook, or of its core path: the cells before the first heading "Deeper"."""

    cells: int
    lines: tuple[int, ...]
    words: int
    opening: int

    @property
    def words_a_line(self) -> float:
        """Words for each line of code, the opening cells among them."""
        return self.words / (sum(self.lines) + self.opening)

    @property
    def reading(self) -> float:
        """Minutes."""
        return self.words / WORDS_A_MINUTE


def words(text: str) -> int:
    """Words of a text cell; a sign alone is none."""
    return len(re.findall(r"\S*\w\S*", UNREAD.sub(" ", text)))


def lines(source: str) -> int:
    """Lines of a code cell that are not empty."""
    return sum(bool(line.strip()) for line in source.splitlines())


def of(notebook: Path, *, core: bool = False) -> Length:
    """The length of a notebook."""
    count, code, read = 0, [], 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            code.append(lines(source))
        else:
            if core and (found := DEEPER.search(source)):
                read += words(source[: found.start()])
                break
            read += words(source)
        count += 1
    return Length(count, tuple(code[2:]), read, sum(code[:2]))


def main() -> None:
    print(f"{'':<24} cells  lines  median  longest  words  a line  reading  core path")
    for path in record.notebooks():
        all_, core = of(path), of(path, core=True)
        row = (
            all_.cells,
            sum(all_.lines),
            statistics.median(all_.lines),
            max(all_.lines),
            all_.words,
        )
        print(f"{path.stem:<24}" + "  {:>4}  {:>5}  {:>6g}  {:>7}  {:>5}".format(*row), end="")
        print(f"  {all_.words_a_line:>6.1f}  {all_.reading:>3.0f} min  {core.reading:>5.0f} min")


if __name__ == "__main__":
    main()
