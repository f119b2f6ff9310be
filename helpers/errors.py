"""`CourseError`, the one exception a student reads, and the checks of single values."""

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path

# Columns of a dataset of conversations, as `data.load_conversations` returns it.
COLUMNS = ("id", "conversations")


class CourseError(Exception):
    """Something went wrong that a student can put right.

    Args:
        what: what happened, with the file, row or value.
        why: the reason, or the rule that was broken.
        todo: what to do next: which cell, menu or command.

    Jupyter shows the message alone, without the traceback that leads to it.
    """

    def __init__(self, what: str, why: str, todo: str):
        self.what, self.why, self.todo = what, why, todo
        super().__init__(f"{what}\nWhy: {why}\nWhat to do: {todo}")

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: the lines to print instead of a traceback."""
        return [f"CourseError: {self}"]


def _is_number(value: object) -> bool:
    """Whether a value is a finite number, also one of NumPy's; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _plain(value: Real) -> float:
    """A number as Python's int or float."""
    return int(value) if isinstance(value, Integral) else float(value)


def _form(value: object) -> str:
    """What is wrong with how a number is written; empty where only its size is wrong."""
    if isinstance(value, str):
        return ": it is text; take the quotes off"
    if isinstance(value, bool):
        return ": it is True or False"
    return ""


def check_whole(name: str, value: object, least: int) -> int:
    """``value`` as an int; CourseError unless it is a whole number of at least ``least``, Python's or NumPy's."""
    if isinstance(value, Integral) and not isinstance(value, bool) and value >= least:
        return int(value)
    form = _form(value)
    if isinstance(value, float) and value.is_integer() and value >= least:
        form = f": it has a decimal point; write {value:.0f}"
    why = f"{name} counts things."
    if name == "r":
        why = "The rank is the inner width of each adapter: r = 0 trains nothing, and 4 to 64 are common."
    raise CourseError(
        f"{name} = {value!r} is not a whole number of at least {least}{form}.",
        why,
        f"Set {name} to a whole number where it is given.",
    )


def check_positive(
    name: str, value: object, why: str = "Nothing would be trained with it."
) -> float:
    """``value`` as a float or int; CourseError unless it is a finite number above 0, Python's or NumPy's."""
    if _is_number(value) and value > 0:
        return _plain(value)
    raise CourseError(
        f"{name} = {value!r} is not a number above 0{_form(value)}.",
        why,
        f"Set {name} to a positive number in the cell above.",
    )


def check_share(name: str, value: object, why: str, todo: str) -> float:
    """``value`` as a float or int; CourseError unless it is a number of at least 0 and below 1."""
    if _is_number(value) and 0 <= value < 1:
        return _plain(value)
    raise CourseError(f"{name} = {value!r} is not between 0 and 1{_form(value)}.", why, todo)


def need_rows(rows: object, name: str = "rows") -> None:
    """CourseError unless these are conversations as `data.load_conversations` returns them: a dataset.

    Args:
        rows: what was passed.
        name: what the helper calls it.
    """
    from datasets import Dataset

    todo = "Pass on what data.load_conversations or selection.select returned."
    if isinstance(rows, Dataset):
        missing = [column for column in COLUMNS if column not in rows.column_names]
        if not missing:
            return
        what = f"a dataset without the column {' and '.join(missing)}"
    elif isinstance(rows, dict) and set(COLUMNS) <= set(rows):
        what = "a slice of a dataset, which is a dict of columns and not rows"
        todo = "For the first 50 rows write rows.select(range(50)) instead of rows[:50]."
    elif isinstance(rows, list | tuple) and all(isinstance(row, dict) for row in rows):
        what = "a list of rows"
        todo = "Make a dataset of it: data.as_dataset(rows)."
    else:
        what = f"{rows!r:.60}, a {type(rows).__name__}"
    raise CourseError(
        f"{name}: this is {what}.",
        "Conversations are kept in a dataset of the library datasets.",
        todo,
    )


def need_texts(texts: object, name: str) -> None:
    """CourseError unless this is a list of texts; a single text would be taken apart into its letters."""
    listed = _is_list(texts)
    wrong = [text for text in texts if not isinstance(text, str)] if listed else [texts]
    if not wrong:
        return
    raise CourseError(
        f"{name}: {wrong[0]!r:.60} is a {type(wrong[0]).__name__}, where a {'text' if listed else 'list'} belongs.",
        f"{name} is a list with one text for each row.",
        f'Write [ and ] around a single one: {name}=["…"].',
    )


def need_switch(value: object, name: str) -> None:
    """CourseError unless this is True or False."""
    if not isinstance(value, bool):
        raise CourseError(
            f"{name} = {value!r:.40} is neither True nor False.",
            "It switches something on or off.",
            f"Write {name}=True or {name}=False, without quotes.",
        )


def need_path(path: object, name: str = "path") -> Path:
    """A file's or folder's name as a path, with ``~`` filled in; CourseError if it is no name."""
    if not isinstance(path, str | os.PathLike) or not str(path).strip():
        raise CourseError(
            f"{name} = {path!r:.60} is no name of a file.",
            f"A {type(path).__name__} was given, and one text is needed.",
            'Write the name in quotes, such as "/content/drive/MyDrive/my_file.json".',
        )
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~name of nobody
        return Path(path)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
