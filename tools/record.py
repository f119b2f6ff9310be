"""What the course's own runs measured, and the prose that states it.

python tools/record.py          write it into README.md and the notebooks' first cells
python tools/record.py --check  exit 1 if they say anything else

data/measured.json holds, for each notebook, the minutes of the run whose outputs stand in the repository, those of
each training in it, the machine, the date and the code; and the last run of all notebooks at full size. An entry
without a date is from before this record. Under `gpu` stands what notebooks show of the results of the GPU scripts:
gpu/collect.py writes that.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))
from helpers.machine import computes_slowly_in_bfloat16

FILE = ROOT / "data" / "measured.json"
README = ROOT / "README.md"
# Instructions that decide how fast a model computes, and whether in 16 bits.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
# Said in the notebooks' first cells: "about 6 minutes on two CPU cores (measured".
MEASURED = re.compile(
    r"\b(?:about )?(?:(?:\d+|an?|half a)(?: to \d+)? (?:seconds?|minutes?)) on (?:two|2) CPU cores \(measured"
)
CORES = 2
READING = re.compile(r"\breading about \d+ minutes?")
ESTIMATE = re.compile(
    r"\babout \d+ minutes (on a T4|in Colab)([^()]*)\((?:an estimate|the median of \d+ users)"
)
T4 = "Tesla T4"
# So many users' reports (tools/reports.py) are needed before a notebook's time in Colab is no estimate any more.
ENOUGH = 3
TABLE_ROW = r"(?m)^(\| `{name}` .*\|)[^|\n]*\|[^|\n]*\|$"
PARAGRAPH = re.compile(r"(?s)<!-- minutes -->\n.*?<!-- /minutes -->")


def read() -> dict:
    """The record."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(content: dict) -> None:
    """Write the record, whole or not at all."""
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(FILE)


# ------------------------------------------------------------------------------------- what was run
def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The course's notebooks in order: all, or those whose names begin as asked, such as 05."""
    every = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [path for path in every if not names or path.name.startswith(tuple(names))]


def code_cells(notebook: Path) -> list[dict]:
    """A notebook's code cells but the two that all open with: a release changes the address in them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"][2:]


def code_hash(notebook: Path) -> str:
    """A short hash of all that decides a notebook's outputs: its code, the helpers, the data, the pins."""
    code = ["".join(cell["source"]) for cell in code_cells(notebook)]
    seen = hashlib.sha256("\0".join(code).encode())
    helpers = (ROOT / "helpers").rglob("*.py")
    data = [path for path in (ROOT / "data").glob("*.json") if path != FILE]
    for path in sorted([*helpers, *data, ROOT / "requirements" / "requirements-local.txt"]):
        seen.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes())
    return seen.hexdigest()[:16]


def course_hash() -> str:
    """The same of all notebooks together."""
    return hashlib.sha256("".join(map(code_hash, notebooks())).encode()).hexdigest()[:16]


def outputs_hash(notebook: Path) -> str:
    """A short hash of a notebook's saved outputs."""
    outputs = json.dumps([cell["outputs"] for cell in code_cells(notebook)], sort_keys=True)
    return hashlib.sha256(outputs.encode()).hexdigest()[:16]


def machine() -> dict:
    """This machine, as far as it decides about minutes: no names of hosts or people."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = set(re.search(r"^flags\s*:(.*)$", about, re.MULTILINE)[1].split())
    model = re.search(r"^model name\s*:\s*(.*)$", about, re.MULTILINE)[1].strip()
    # As Unsloth and the course choose on a CPU.
    asked = os.environ.get("UNSLOTH_CPU_BF16")
    fast = not computes_slowly_in_bfloat16(about)
    bfloat16 = asked == "1" if asked else fast and bool(flags & {"avx512_bf16", "amx_bf16"})
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in FEATURES if name in flags],
        "number_format": "bfloat16" if bfloat16 else "float32",
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def notebook_minutes() -> dict[str, float]:
    """Minutes of each notebook at full size, as far as they were measured."""
    return {name: entry["minutes"] for name, entry in read()["notebooks"].items()}


def is_current(notebook: Path) -> bool:
    """Whether the saved outputs are those of the last measured run, of this code, on this machine."""
    entry = read()["notebooks"].get(notebook.stem, {})
    return (
        entry.get("code") == code_hash(notebook)
        and entry.get("outputs") == outputs_hash(notebook)
        and entry.get("machine") == machine()
    )


def note(notebook: Path, minutes: float, training: dict[str, float]) -> None:
    """Enter a run whose outputs were just saved; ``training`` maps a run's folder to its minutes."""
    content = read()
    estimate = content["notebooks"].get(notebook.stem, {}).get("colab_minutes_estimate")
    content["notebooks"][notebook.stem] = {
        "minutes": round(minutes, 2),
        "training_minutes": training,
        "colab_minutes_estimate": estimate,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "code": code_hash(notebook),
        "outputs": outputs_hash(notebook),
    }
    write(content)


def note_full(minutes: dict[str, float]) -> None:
    """Enter a run of all notebooks at full size."""
    full = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "code": course_hash(),
        "minutes": {name: round(value, 2) for name, value in minutes.items()},
    }
    write(read() | {"full": full})


def in_colab(content: dict, name: str) -> tuple[int, int]:
    """Minutes of a notebook on a T4, and how many users' reports they are the median of: 0 for an estimate."""
    reports = [
        one["minutes_since_set_up"]
        for one in content.get("reported_by_users", [])
        if one["gpu"] == T4
        and one["model"] == "llama-2-7b"
        and one["without_a_pause"]
        and one["minutes_since_set_up"]
        and name[:2] == one["notebook"]
    ]
    if len(reports) < ENOUGH:
        return content["notebooks"][name]["colab_minutes_estimate"], 0
    return round(statistics.median(reports)), len(reports)


# ------------------------------------------------------------------------------------- what is said
def in_words(minutes: float) -> str:
    """As a first cell says it: seconds in fives, then whole minutes."""
    if minutes < 0.85:
        return f"about {max(5, 5 * round(minutes * 12))} seconds"
    return "about a minute" if minutes < 1.5 else f"about {round(minutes)} minutes"


def in_table(minutes: float) -> str:
    """As the README's table says it."""
    words = in_words(minutes).removeprefix("about ")
    return words.replace("a minute", "1 min").replace("minutes", "min").replace("seconds", "s")


def first_cell(text: str, entry: dict, reading: float, colab: tuple[int, int]) -> str:
    """A notebook's first cell with the times of the record, and the minutes that reading it takes.

    ``colab`` is what `in_colab` says of it.
    """
    text = READING.sub(f"reading about {max(1, round(reading))} minutes", text)
    text = MEASURED.sub(f"{in_words(entry['minutes'])} on two CPU cores (measured", text)
    source = f"the median of {colab[1]} users" if colab[1] else "an estimate"
    return ESTIMATE.sub(lambda m: f"about {colab[0]} minutes {m[1]}{m[2]}({source}", text)


def on(machine: dict) -> str:
    """A machine in words."""
    names = [name.upper().replace("_", "-") for name in machine["features"]]
    return (
        f"{machine['cores']} cores of an {machine['processor']} ({', '.join(names)}; computing in "
        f"{machine['number_format']}, Python {machine['python']})"
    )


def paragraph(content: dict) -> str:
    """What the README says about where its minutes come from, and about the last run at full size."""
    entries = content["notebooks"]
    dated = {name: entry for name, entry in entries.items() if entry.get("date")}
    lines = []
    for where in dict.fromkeys(on(entry["machine"]) for entry in dated.values()):
        mine = {n: e for n, e in dated.items() if on(e["machine"]) == where}
        dates = sorted(entry["date"] for entry in mine.values())
        when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        which = (
            "Minutes and outputs" if len(mine) == len(entries) else ", ".join(n[:2] for n in mine)
        )
        lines.append(f"{which}: {when}, on {where}.")
    if older := [name[:2] for name in entries if name not in dated]:
        lines.append(f"Of {', '.join(older)} neither the date nor the machine was recorded.")
    full = content.get("full")
    if not full:
        lines.append("No run of all notebooks at full size was recorded yet.")
    else:
        took = f"{len(full['minutes'])} notebooks, {sum(full['minutes'].values()):.0f} minutes"
        older = "" if full["code"] == course_hash() else "; the course's code has changed since"
        lines.append(
            f"The last run at full size: {full['date']}, {took}, on {on(full['machine'])}{older}."
        )
    return "\n".join(["<!-- minutes -->", *lines, "<!-- /minutes -->"])


def readme(text: str, content: dict) -> str:
    """The README with the times of the record."""
    for name, entry in content["notebooks"].items():
        minutes, reports = in_colab(content, name)
        source = f" (median of {reports} users)" if reports else ""
        cells = f" {minutes} min{source} | {in_table(entry['minutes'])} |"
        text = re.sub(TABLE_ROW.format(name=name), lambda row, cells=cells: row[1] + cells, text)
    return PARAGRAPH.sub(lambda _: paragraph(content), text)


def prose() -> dict[Path, str]:
    """Each file that states times, as it should be."""
    import lengths  # which imports this file

    content = read()
    wanted = {README: readme(README.read_text(encoding="utf-8"), content)}
    for path in notebooks():
        text = path.read_text(encoding="utf-8")
        if entry := content["notebooks"].get(path.stem):
            book = json.loads(text)
            source = book["cells"][0]["source"]
            reading = lengths.of(path).reading
            changed = first_cell("".join(source), entry, reading, in_colab(content, path.stem))
            lines = changed.splitlines(keepends=True)
            book["cells"][0]["source"] = lines if isinstance(source, list) else "".join(lines)
            text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
        wanted[path] = text
    return wanted


def stale() -> list[Path]:
    """Files that state other times than the record."""
    return [path for path, text in prose().items() if path.read_text(encoding="utf-8") != text]


def rewrite() -> None:
    """Write the record's times where they are stated."""
    texts = prose()
    for path in stale():
        path.write_text(texts[path], encoding="utf-8")
        print("rewrote", path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        rewrite()
    elif wrong := stale():
        names = ", ".join(path.name for path in wrong)
        sys.exit(f"{names} and data/measured.json disagree: run `python tools/record.py`.")


if __name__ == "__main__":
    main()
