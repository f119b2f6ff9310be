"""Take users' report lines into data/measured.json, as reported by users; never among the course's own numbers.

python tools/reports.py FILE …     texts of issues, with a line `lora-course-report {…}` each
python tools/reports.py -          the same from standard input

A line that cannot be right is refused, with the reason; one that is there already is left out.
"""

import argparse
import datetime
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import record

from helpers import memory, presets, report

T4 = "Tesla T4"
# What each field is; None where a machine does not know it.
NUMBERS = ("r", "modules", "rows_at_once", "longest_row", "trained", "tokens", "minutes")
TEXTS = ("notebook", "date", "gpu", "gpu_memory", "driver", "model")
# More tokens a second than any T4 trains of a 7B model, by arithmetic: see `memory.T4_FLOPS`.
FASTEST_SHARE = 2


def lines(text: str) -> list[str]:
    """The report lines of a text, without the mark; a form's quotes and code marks are taken off."""
    return re.findall(rf"{report.MARK} (\{{.*\}})", text)


def fault(found: dict) -> str | None:
    """Why a report cannot be right, else None."""
    for name in TEXTS:
        if not isinstance(found.get(name), str) or len(found[name]) > 60:
            return f"{name} is no short text"
    for name in NUMBERS:
        if not _positive(found.get(name)):
            return f"{name} is no number above 0"
    try:
        day = datetime.date.fromisoformat(found["date"])
    except ValueError:
        return f"{found['date']} is no date"
    if day > datetime.date.today() + datetime.timedelta(days=1):
        return f"{found['date']} has not come yet"
    if found["model"] not in presets.MODELS:
        return f"{found['model']} is no model of the course"
    if not _positive(found.get("minutes_since_set_up")) or not (
        found["minutes"] <= found["minutes_since_set_up"] + 0.1 <= 24 * 60
    ):
        return "the notebook took less than its training, or more than a day"
    if not _positive(found.get("peak_gib")) or not _positive(found.get("predicted_gib")):
        return "no memory was measured: this was no GPU"
    weights = memory.weight_gib(found["model"])
    if not 0.9 * weights <= found["peak_gib"] <= presets.OLDER_T4_MEMORY_GIB and found["gpu"] == T4:
        return f"{found['peak_gib']} GiB is less than the weights, or more than a T4 has"
    fewest = memory.minutes_on_t4(found["model"], found["tokens"])[0]
    if found["gpu"] == T4 and found["minutes"] < fewest / FASTEST_SHARE:
        return f"{found['minutes']} minutes is faster than a T4 can be"
    return None


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15


def take(texts: list[str]) -> list[str]:
    """Enter what can be right into data/measured.json; what was done with each line."""
    content = record.read()
    reports, said = content.setdefault("reported_by_users", []), []
    for raw in [raw for text in texts for raw in lines(text)]:
        try:
            found = json.loads(raw)
            why = fault(found) if isinstance(found, dict) else "it is no record"
        except ValueError as error:
            found, why = None, f"it cannot be read: {error}"
        if why:
            said.append(f"refused: {why}: {raw[:80]}")
        elif found in reports:
            said.append(f"known: {found['gpu']}, {found['date']}")
        else:
            reports.append(found)
            said.append(f"taken: {found['gpu']}, {found['minutes']} minutes of training")
    record.write(content)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    names = parser.parse_args().files
    texts = [sys.stdin.read() if n == "-" else Path(n).read_text(encoding="utf-8") for n in names]
    said = take(texts) or ["no report line was found"]
    print("\n".join(said))
    record.rewrite()
    sys.exit(any(one.startswith("refused") for one in said))


if __name__ == "__main__":
    main()
