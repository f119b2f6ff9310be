"""Is what a cell passes on what a helper takes? Else a sentence that says what came instead."""

import os
from collections.abc import Sequence
from pathlib import Path

from helpers.errors import CourseError

COLUMNS = ("id", "conversations")


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
