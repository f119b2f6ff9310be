"""A choice and a selection as one line of text: it takes them to another machine, without Google Drive.

Each notebook in Colab has a machine of its own. `code` writes the line, `take` reads it on the next machine.
"""

import base64
import binascii
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import data, homework, selection
from helpers.choice import Choice, choice_from, save_choice, saved_choice
from helpers.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset

BEGINS = "lora-course-1-"
AGAIN = "Copy the whole line again, from the notebook that printed it."


def code() -> str:
    """The choice and the selection that the workspace holds, as a line to copy; empty if it holds neither.

    Of the choice it has what differs from the homework's settings; of each conversation its place in the pool.
    Conversations that were edited, or come from a file of the student's own, have no place there: that is printed.
    """
    content = {}
    if choice := saved_choice():
        saved, usual = choice.to_dict(), Choice().to_dict()
        content["choice"] = {name: v for name, v in saved.items() if v != usual[name]}
    if (rows := selection.saved_selection()) is not None:
        content |= _places(rows)
    if not content:
        return ""
    packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
    return BEGINS + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def take(text: str) -> set[str]:
    """Put what a code holds into this workspace, and say what that is; an empty text changes nothing.

    Two codes may stand one after the other, such as the choice of notebook 03 and the selection of 04.

    Returns:
        What was in it, of ``choice`` and ``rows``.

    Raises:
        CourseError: the code was cut or changed, or this machine lacks the pool that it chooses from; then nothing
            has changed.
    """
    # Quotes, spaces and what else comes along with a copied line.
    text = re.sub(r"[^\w-]", "", str(text or ""), flags=re.ASCII).removeprefix("my_code")
    if not text:
        return set()
    start, *rest = text.split(BEGINS)
    content = _unpacked(start) if start else {}
    for part in rest:
        content |= _unpacked(BEGINS + part)
    choice = (
        choice_from(content["choice"], Path("the code"), AGAIN) if "choice" in content else None
    )
    chosen = _rows(content) if "rows" in content else None
    if choice:
        before = _unless_damaged(saved_choice)
        save_choice(choice)
        print(
            f"From your code: r = {choice.r}, alpha = {choice.lora_alpha:g}; saved as your choice"
            + (
                "."
                if before in (None, choice)
                else f", in place of r = {before.r}, alpha = {before.lora_alpha:g}."
            )
        )
    if chosen:
        rows, source = chosen
        before = _unless_damaged(selection.saved_selection)
        selection.save_selection(rows, source)
        other = before is not None and before.to_list() != rows.to_list()
        print(
            f"From your code: {len(rows)} conversations of {source.name}; saved as your selection"
            + (f", in place of {len(before)} others." if other else ".")
        )
    return content.keys() & {"choice", "rows"}


def _unless_damaged(read: Callable):
    """What was saved before; None for a damaged file too, which the code's content replaces."""
    try:
        return read()
    except CourseError:
        return None


def _pools() -> list[Path]:
    """The pools that this machine has."""
    return list(dict.fromkeys([data.pool_path(), data.OUR_POOL]))


def _fingerprint(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def _places(rows: "Dataset") -> dict:
    """The pool's fingerprint, each row's place in it, and whether all have the homework's preamble."""
    for file in _pools():
        pool = data.load_conversations(file, skip_unusable=True)
        place = {row_id: i for i, row_id in enumerate(pool["id"])}
        if not set(rows["id"]) <= place.keys():
            continue
        found = [place[row_id] for row_id in rows["id"]]
        chosen = pool.select(found)
        for preamble, same in ((False, chosen), (True, homework.with_preamble(chosen))):
            if selection.fingerprint(same) == selection.fingerprint(rows):
                rows_there = [len(pool), len(found), _as_number(found, len(pool))]
                return {"pool": _fingerprint(file), "rows": rows_there, "preamble": preamble}
    print(
        "Your conversations are not those of a pool as it stands, so the code leaves them out. Take selection.json "
        "from your workspace to the next machine's."
    )
    return {}


def _as_number(places: Sequence[int], size: int) -> str:
    """Places in a pool of ``size`` rows as the digits of one number to that base, in hexadecimal: half as long as JSON."""
    number = 0
    for place in reversed(places):
        number = number * size + place
    return f"{number:x}"


def _as_places(size: int, count: int, number: str) -> list[int]:
    """The same back."""
    rest, places = int(number, 16), []
    for _ in range(count):
        rest, place = divmod(rest, size)
        places.append(place)
    return places


def _unpacked(text: str) -> dict:
    """What a code holds, its parts of the right kinds."""
    try:
        packed = text.removeprefix(BEGINS).encode("ascii")
        inflater = zlib.decompressobj()
        plain = inflater.decompress(base64.urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)))
        if not inflater.eof or inflater.unused_data:
            raise ValueError("it is cut off, or goes on")
        content = json.loads(plain)
        rows = content.get("rows", [])
        whole = isinstance(content.get("choice", {}), dict) and isinstance(rows, list)
    except (ValueError, binascii.Error, zlib.error, AttributeError):
        whole = False
    if not whole or not text.startswith(BEGINS):
        raise CourseError(
            f"{text[:30]}… is no whole code." if len(text) > 30 else f"{text} is no whole code.",
            f"A code begins with {BEGINS} and is one long line; a part of it was cut off, changed or added.",
            AGAIN,
        )
    return content


def _rows(content: dict) -> tuple["Dataset", Path]:
    """The conversations that a code chooses, and the pool that they are from."""
    file = next((file for file in _pools() if _fingerprint(file) == content.get("pool")), None)
    if file is None:
        raise CourseError(
            "The code chooses from a pool that this machine does not have.",
            "It was made with the homework's pool, or with another version of the course's.",
            "Fetch the homework's first (homework.fetch()), or empty the field and choose again in notebook 04.",
        )
    pool = data.load_conversations(file, skip_unusable=True)
    rows = pool.select(_as_places(*content["rows"]))
    return (homework.with_preamble(rows) if content.get("preamble") else rows), file
