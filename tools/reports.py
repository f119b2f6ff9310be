"""Take users' report lines into data/measured.json, as reported by users; never among the course's own numbers.

python tools/reports.py FILE …     a file for each issue, with a line `lora-course-report {…}` in it
python tools/reports.py -          the text of one issue from standard input

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

from helpers import lora, memory, presets, report

# What each field is. Nothing else may stand in a line.
WHOLE = ("r", "modules", "rows_at_once", "longest_row", "trained", "tokens")
NUMBERS = ("minutes", "tokens_per_second")
GIBS = ("peak_gib", "predicted_gib")
TEXTS = ("notebook", "date", "gpu", "gpu_memory", "driver", "model")
# How many times as fast as the fewest minutes of the planner a T4 may have been.
FASTEST = 2
# The form's answer of somebody whose minutes hold no pauses.
WITHOUT_A_PAUSE = "Run all, without a pause"


def lines(text: str) -> list[str]:
    """The report lines of a text, without the mark; a form's quotes and code marks are taken off."""
    return re.findall(rf"{report.MARK} (\{{.*\}})", text)


def fault(found: dict) -> str | None:
    """Why a report cannot be right, else None."""
    if set(found) != {*TEXTS, *WHOLE, *NUMBERS, *GIBS, "versions", "minutes_since_set_up"}:
        return "its fields are not those of a report"
    versions = found["versions"] if isinstance(found["versions"], dict) else {"": None}
    for name, value in [(n, found[n]) for n in TEXTS] + [*versions.items()]:
        if not isinstance(value, str) or len(value) > 60:
            return f"{name or 'versions'} is no short text"
    for name in (*WHOLE, *NUMBERS):
        if not _positive(found[name]) or (name in WHOLE and not isinstance(found[name], int)):
            return f"{name} is no number above 0 of its kind"
    return _contradiction(found)


def _contradiction(found: dict) -> str | None:
    """Why values of the right kinds cannot be right together, else None."""
    if found["notebook"] not in ("00", "05") or set(found["versions"]) != set(report.PACKAGES):
        return "no notebook of the course printed it"
    try:
        day = datetime.date.fromisoformat(found["date"])
    except ValueError:
        return f"{found['date']} is no date"
    if day > datetime.date.today() + datetime.timedelta(days=1):
        return f"{found['date']} has not come yet"
    if found["model"] not in presets.MODELS:
        return f"{found['model']} is no model of the course"
    parts = len(presets.PROJECTIONS)
    known = found["modules"] == parts and lora.adapter_parameters(found["model"], found["r"])
    if found["modules"] > parts or (known and found["trained"] != known):
        return f"{found['trained']} is not what r = {found['r']} trains"
    whole = found["minutes_since_set_up"]
    if whole is not None and not (_positive(whole) and found["minutes"] <= whole + 0.1 <= 24 * 60):
        return "the notebook took less than its training, or more than a day"
    rate = found["tokens"] / (60 * found["minutes"])
    if not 0.5 * rate <= found["tokens_per_second"] <= 2 * rate:
        return f"{found['tokens_per_second']} tokens/s are not its tokens in its minutes"
    if not all(_positive(found[name]) for name in GIBS):
        return "no memory was measured: this was no GPU"
    weights = memory.weight_gib(found["model"])
    if (
        not 0.9 * weights <= found["peak_gib"] <= presets.OLDER_T4_MEMORY_GIB
        and found["gpu"] == record.T4
    ):
        return f"{found['peak_gib']} GiB is less than the weights, or more than a T4 has"
    if not 0.5 <= found["predicted_gib"] / found["peak_gib"] <= 2:
        return f"{found['predicted_gib']} GiB is no prediction of the planner's for it"
    fewest = memory.minutes_on_t4(found["model"], found["tokens"])[0]
    if found["gpu"] == record.T4 and found["minutes"] < fewest / FASTEST:
        return f"{found['minutes']} minutes is faster than a T4 can be"
    return None


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15


def take(texts: list[str]) -> list[str]:
    """Enter what can be right into data/measured.json; what was done with each line."""
    content = record.read()
    reports, said = content.setdefault("reported_by_users", []), []
    told = [(raw, WITHOUT_A_PAUSE in text) for text in texts for raw in lines(text)]
    for raw, whole in told:
        try:
            found = json.loads(raw)
            why = fault(found) if isinstance(found, dict) else "it is no record"
        except (ValueError, RecursionError) as error:
            found, why = None, f"it cannot be read: {error}"
        if why:
            said.append(f"refused: {why}: {raw[:80]}")
        elif any(found == {n: one[n] for n in found} for one in reports):
            said.append(f"known: {found['gpu']}, {found['date']}")
        else:
            reports.append(found | {"without_a_pause": whole})
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
