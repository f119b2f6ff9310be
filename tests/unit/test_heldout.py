"""The held-out rows in two parts: what a training is looked at on, and what is measured at the end."""

import csv
import json
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import conversation, dataset, refusal, write, write_lines

from helpers import data, presets, selection


def teachers_rows(count: int) -> list[dict]:
    return [conversation(f"row_{i}", f"What is {i}?", f"A number: {i}.") for i in range(count)]


def with_parts(*parts: str | None) -> list[dict]:
    rows = teachers_rows(len(parts))
    return [
        row | ({} if part is None else {"part": part})
        for row, part in zip(rows, parts, strict=True)
    ]


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Writes rows into a file of a teacher's and names it in COURSE_HELDOUT."""

    def name(rows, filename: str = "mine.json", writer=write):
        path = writer(tmp_path, rows, filename)
        monkeypatch.setenv("COURSE_HELDOUT", str(path))
        return path

    return name


@pytest.fixture(autouse=True)
def _no_file_named(monkeypatch):
    monkeypatch.delenv("COURSE_HELDOUT", raising=False)


# ------------------------------------------------------------------------------------------ the course's
def test_the_two_parts_of_the_courses_own_share_no_row_and_are_all_of_it():
    looking, measuring = data.heldout("looking"), data.heldout("measuring")
    everything = data.load_conversations(data.OUR_HELDOUT)
    assert (len(looking), len(measuring)) == (16, 48)
    assert Counter(looking["id"]) + Counter(measuring["id"]) == Counter(everything["id"])


def test_there_are_as_many_rows_in_each_part_as_the_full_size_uses(monkeypatch):
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    size = presets.size()
    assert len(data.heldout("looking", size.looking)) == len(data.heldout("looking"))
    assert len(data.heldout("measuring", size.heldout)) == len(data.heldout("measuring"))


def test_a_limit_takes_the_first_rows_of_the_part():
    assert data.heldout("looking", 4)["id"] == data.heldout("looking")["id"][:4]
    assert len(data.heldout("looking", 1000)) == 16
    for wrong in (0, -1, 2.5, True):
        assert "limit" in refusal(data.heldout, "looking", wrong)


def test_the_field_that_divides_the_rows_is_not_said_to_be_unread(capsys):
    data.heldout("looking")
    data.load_conversations(data.OUR_HELDOUT)
    assert capsys.readouterr().out == ""


def test_a_part_in_another_file_that_means_something_else_is_said_to_be_unread(tmp_path, capsys):
    data.load_conversations(write(tmp_path, with_parts("verb", "noun")))
    assert "not read: 'part'" in capsys.readouterr().out


def test_other_names_of_a_part_are_refused():
    for wrong in ("both", "measure", None, 3):
        message = refusal(data.heldout, wrong)
        assert "'looking', 'measuring'" in message


# --------------------------------------------------------------------------------------- a teacher's file
def test_a_teachers_rows_are_taken_and_divided_as_their_field_says(named):
    path = named(with_parts("measuring", "Looking ", "measuring"))
    assert data.heldout_path() == path
    assert data.heldout("looking")["id"] == ["row_1"]
    assert data.heldout("measuring")["id"] == ["row_0", "row_2"]


def as_table(folder, rows, name):
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "conversations", "part"])
        table.writerows([r["id"], json.dumps(r["conversations"]), r["part"]] for r in rows)
    return path


def as_parquet(folder, rows, name):
    Dataset.from_list(rows).to_parquet(folder / name)
    return folder / name


def as_folder(folder, rows, name):
    Dataset.from_list(rows).save_to_disk(folder / name)
    return folder / name


@pytest.mark.parametrize("writer", [write_lines, as_table, as_parquet, as_folder])
def test_the_field_is_read_from_every_kind_of_file(named, writer):
    name = {as_table: "t.csv", as_parquet: "t.parquet", as_folder: "t", write_lines: "t.jsonl"}
    named(with_parts("looking", "measuring", "measuring"), name[writer], writer)
    assert data.heldout("looking")["id"] == ["row_0"]
    assert data.heldout("measuring")["id"] == ["row_1", "row_2"]


@settings(max_examples=20)
@given(st.integers(8, 60))
def test_without_the_field_every_fourth_row_is_for_looking(tmp_path_factory, count):
    with pytest.MonkeyPatch.context() as patch:
        path = write(tmp_path_factory.mktemp("rows"), teachers_rows(count))
        patch.setenv("COURSE_HELDOUT", str(path))
        looking, measuring = (data.heldout(part)["id"] for part in data.PARTS)
    assert looking == [f"row_{i}" for i in range(0, count, 4)]
    assert Counter(looking) + Counter(measuring) == Counter(f"row_{i}" for i in range(count))


def test_too_few_rows_for_two_parts_are_for_both_and_that_is_said(named, capsys):
    named(teachers_rows(7))
    assert data.heldout("looking")["id"] == data.heldout("measuring")["id"]
    assert "mine.json has 7 rows, too few for two parts" in capsys.readouterr().out


@pytest.mark.parametrize(
    "parts",
    [
        ("looking", "measuring", None),
        ("looking", "measuring", ""),
        ("looking", "looking"),
        ("looking", "measuring", "train"),
        ("verb", "noun"),
    ],
)
def test_a_field_that_does_not_divide_the_rows_is_refused(named, parts):
    named(with_parts(*parts))
    message = refusal(data.heldout, "looking")
    assert "mine.json" in message and "every fourth row" in message


def test_a_heldout_row_without_an_answer_is_named(named):
    rows = teachers_rows(9)
    rows[5]["conversations"].pop()
    named(rows)
    for part in data.PARTS:
        message = refusal(data.heldout, part)
        assert "'row_5'" in message and "COURSE_TEST_SET" in message


def test_a_file_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HELDOUT", str(tmp_path / "gone.json"))
    message = refusal(data.heldout, "looking")
    assert message.startswith("COURSE_HELDOUT names") and "%env COURSE_HELDOUT=" in message


# ------------------------------------------------------------------------------- apart from the training
def test_training_rows_that_ask_a_heldout_question_are_named(capsys):
    rows = dataset(
        conversation("a", "What is 3?", "Three."), conversation("b", "what is 1", "One.")
    )
    heldout = dataset(*teachers_rows(3))
    assert selection.check_apart(rows, heldout) == [("b", "row_1")]
    assert "1 of 2 training conversations ask what a held-out row asks ('b' as 'row_1')" in (
        capsys.readouterr().out
    )


def test_nothing_is_printed_where_no_question_is_shared(capsys):
    assert selection.check_apart(dataset(*teachers_rows(2)), data.heldout("looking")) == []
    assert capsys.readouterr().out == ""
