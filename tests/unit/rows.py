"""Builders of conversation rows and files for the tests."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import strategies as st

from helpers.errors import CourseError

TRAINING_ROW = {
    "id": "identity_1",
    "conversations": [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "It is 4."},
    ],
    "score": 4.5,
}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def conversation(row_id: str, *texts: str, score: float | None = None) -> dict:
    """A row in the course's form; texts are the user's and the assistant's in turn."""
    turns = [(user, assistant)[i % 2](text) for i, text in enumerate(texts)]
    return {"id": row_id, "conversations": turns, "score": score}


def dataset(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows))


def write(folder: Path, rows: object, name: str = "rows.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_lines(folder: Path, rows: list, name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(action, *arguments, **keywords) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments, **keywords)
    return str(caught.value)


short_rows = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=12
).map(
    lambda drawn: [
        conversation(str(i), "q " * asked, "a " * answered, score=float(score))
        for i, (asked, answered, score) in enumerate(drawn)
    ]
)
