"""Files of several kinds to rows, as they are written there: JSON, JSON lines, CSV, Parquet, saved datasets."""

import contextlib
import csv
import io
import json
import os
import re
from pathlib import Path

from helpers.errors import CourseError
from helpers.shapes import SHAPES

# What files that are often given by mistake begin with.
OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive, or an Excel or Word file",
    b"\x1f\x8b": "packed with gzip",
    b"ARROW1": "an Arrow file",
    b"\x89PNG": "a picture",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS, which stands for a file that was not fetched",
    b"<": "a web page or XML: perhaps a download led to a login or an error page",
}
UNPACK = (
    "Give a JSON, JSON lines, CSV or Parquet file, or a folder that Dataset.save_to_disk wrote."
)


def raw_rows(path: Path) -> list:
    """The rows of a file or of a saved-dataset folder; what they hold is not looked at.

    The kind is read from the content, not from the name; only CSV needs its ending, ``.csv`` or ``.tsv``.

    Raises:
        CourseError: the file is missing, empty, damaged, or of another kind; the message names it.
    """
    # Unlike Path.is_dir, this also answers for a name that no file can have.
    if os.path.isdir(path):
        return _folder(path)
    content = _bytes(path)
    rows = _parquet(path, content) if content.startswith(b"PAR1") else _text_rows(path, content)
    if not rows:
        raise CourseError(
            f"{path.name} has no rows.",
            "Its list or table is empty.",
            "Choose another file.",
        )
    return rows


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CourseError(
            f"There is no file {path}.",
            "The name may be misspelt, or the file lies on another machine.",
            f"Look into {path.parent} and correct the name.",
        ) from error
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "It is no file, or not yours to read.",
            f"Look into {path.parent} and correct the name.",
        ) from error
    kind = next((kind for start, kind in OTHER_KINDS.items() if content.startswith(start)), None)
    if kind:
        raise CourseError(f"{path.name} cannot be read.", f"It is {kind}.", UNPACK)
    return content


def _text_rows(path: Path, content: bytes) -> list:
    table = path.suffix.lower() in (".csv", ".tsv")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        sixteen = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise CourseError(
            f"{path.name} is not UTF-8 text (byte {error.start}).",
            ("It is UTF-16. " if sixteen else "")
            + "Read in another encoding, letters would be garbled in silence.",
            "Save the file again as UTF-8" + (" (in Excel: CSV UTF-8)." if table else "."),
        ) from error
    if not text.strip("\ufeff \t\r\n"):
        raise CourseError(
            f"{path.name} is empty.",
            "It should hold a JSON array of conversations, or one JSON object a line.",
            "Check where the file came from; a download may have failed.",
        )
    # A table whose first column is called [ or { is not to be feared.
    if table and not re.match(r"[\ufeff\s]*[\[{]", text):
        return _csv(path, text)
    return _json(path, text)


# ------------------------------------------------------------------------------------------------ JSON
def _json(path: Path, text: str) -> list:
    """The rows of all JSON values in a text, one after the other.

    So a JSON array, JSON lines, and files of either kind that were joined are read in the same way; a byte
    order mark may stand before each value.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_no_name_twice)
    space = re.compile(r"[\s\ufeff]*")
    rows: list = []
    place = space.match(text).end()
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _json_error(path, text, error) from error
        rows += value if isinstance(value, list) else _unwrapped(value)
        place = space.match(text, place).end()
    return rows


def _no_name_twice(pairs: list[tuple[str, object]]) -> dict:
    """An object; Python would keep the last of two fields of one name, and drop the other in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"an object has two fields called {twice!r:.40}")
    return found


def _unwrapped(value: object) -> list:
    """The rows inside ``{"data": [...]}``, whatever the name; any other value is a row itself."""
    if isinstance(value, dict) and not set(SHAPES) & set(value):
        lists = [v for v in value.values() if isinstance(v, list)]
        if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
            return lists[0]
    return [value]


def _json_error(path: Path, text: str, error: Exception) -> CourseError:
    if isinstance(error, RecursionError):
        return CourseError(
            f"{path.name} is nested too deeply.",
            "Its brackets open hundreds of times one inside the other; no conversation needs that.",
            "Check where the file came from.",
        )
    if not isinstance(error, json.JSONDecodeError):
        return CourseError(
            f"{path.name} cannot be read as JSON: {error}.",
            "Something would be lost or be no number.",
            "Mend that place.",
        )
    if not re.match(r"[\s\ufeff]*[\[{]", text):
        begin = text.strip("\ufeff \t\r\n")[:30]
        return CourseError(
            f"{path.name} is not JSON; it begins with {begin!r}.",
            "JSON begins with [ or {.",
            "If it is a table, let its name end in .csv, and the first line name the columns.",
        )
    ends = error.msg.startswith("Unterminated string") or not text[error.pos :].strip("\ufeff \n\r")
    return CourseError(
        f"{path.name} is not complete JSON (line {error.lineno}: {error.msg}, column {error.colno}).",
        "The file is cut off." if ends else "The file was edited by hand, or is cut off.",
        "Fetch it again, or mend it at that place.",
    )


# ---------------------------------------------------------------------------------------- CSV, Parquet
def _csv(path: Path, text: str) -> list[dict]:
    """The rows of a table; an empty cell is an empty text, and a score becomes a number.

    `datasets` reads CSV with Pandas, which guesses types: the answer "None" would be missing, "007" become 7.
    """
    # Excel's way to name the separator, in a line of its own.
    named = re.match(r"\ufeff?sep=([,;\t])\r?\n", text)
    text = text[named.end() :] if named else text
    separator = named[1] if named else max(",;\t", key=text.split("\n", 1)[0].count)
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[dict] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        # A spreadsheet may write columns without a name, or anything else, at the end.
        while header and not header[-1]:
            header.pop()
        if twice := [name for name in header if header.count(name) > 1]:
            raise csv.Error(f"two columns have the same name, {twice[0]!r:.40}")
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(header):
                raise csv.Error(f"{len(cells)} cells in a table of {len(header)} columns")
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise CourseError(
            f"{path.name}, line {lines.line_num + bool(named)}: {error}.",
            f"Its columns are separated by {separator!r}; text that holds one, or a line end, needs "
            'quotes " around it.',
            "Mend that line, or save the table again from the program that wrote it.",
        ) from error
    for row in rows:
        if row.get("id") == "":
            row["id"] = None
        with contextlib.suppress(ValueError):  # The row is then refused by its number.
            if "score" in row:
                row["score"] = float(row["score"]) if row["score"] else None
    return rows


def _parquet(path: Path, content: bytes) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    # Damage shows as nearly any error of pyarrow's.
    except Exception as error:
        raise CourseError(
            f"{path.name} is not a complete Parquet file ({' '.join(str(error).split())[:120]}).",
            "The file is cut off or damaged.",
            "Fetch it again.",
        ) from error


# --------------------------------------------------------------------------------------------- folders
def _folder(path: Path) -> list:
    """The rows of a folder that ``Dataset.save_to_disk`` wrote; of several splits, the training one."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
        if isinstance(saved, DatasetDict):
            splits = list(saved)
            split = "train" if "train" in splits else splits[0]
            if len(splits) > 1:
                print(f"{path.name}: reading {split!r}, one of {', '.join(splits)}.")
            saved = saved[split]
        rows = saved.to_list()
    # Damage shows as nearly any error.
    except Exception as error:
        files = sorted(file.name for file in path.iterdir() if file.is_file())[:4]
        raise CourseError(
            f"The folder {path} is not a saved dataset ({' '.join(str(error).split())[:200]}).",
            "A folder can be read if Dataset.save_to_disk wrote it."
            + (f" This one holds {', '.join(files)}." if files else ""),
            "Give the path of a JSON file, or of such a folder.",
        ) from error
    if not rows:
        raise CourseError(
            f"{path.name} has no rows.", "It is empty.", f"Choose another than {path}."
        )
    return rows
