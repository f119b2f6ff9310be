"""The course's own conversations are as data/README.md says. Plain JSON, no loader in between."""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import mean, quantiles

import pytest

FOLDER = Path(__file__).parent.parent.parent / "data"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
FILES = ("conversations.json", "heldout.json", "test_prompts.json")
# "| `conversations.json` | 360 | …" and "| 5 | what it means | 160 |"
FILE_ROWS = {
    name: int(n) for name, n in re.findall(r"^\| `(.+?)` \| (\d+) \|", README, re.MULTILINE)
}
SCORES = {
    int(score): (meaning, int(n))
    for score, meaning, n in re.findall(r"^\| (\d) \| (.+?) \| (\d+) \|$", README, re.MULTILINE)
}
LABELS = ["Short answer", "Why", "Try it"]


def read(name: str) -> list[dict]:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


POOL, HELDOUT, TEST_PROMPTS = map(read, FILES)


def answers(rows: list[dict], score: int | None = None) -> list[str]:
    return [
        message["content"]
        for row in rows
        if score is None or row["score"] == score
        for message in row["conversations"]
        if message["role"] == "assistant"
    ]


def questions(rows: list[dict]) -> list[str]:
    texts = [m.get("content", m.get("value")) for row in rows for m in row["conversations"][::2]]
    return [" ".join(text.lower().split()) for text in texts]


def words(row: dict) -> int:
    return sum(len(message["content"].split()) for message in row["conversations"])


def labels(answer: str) -> list[str]:
    return re.findall(rf"^({'|'.join(LABELS)}): (?=\S)", answer, flags=re.MULTILINE)


def parts(answer: str) -> dict[str, str]:
    pieces = re.split(rf"^({'|'.join(LABELS)}): ", answer, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


# --------------------------------------------------------------------------------------------- schema
def test_the_readme_lists_every_data_file_and_its_rows():
    # measured.json holds minutes and memory, no conversations.
    files = {file.name for file in FOLDER.glob("*.json")} - {"measured.json"}
    assert set(FILE_ROWS) == files == set(FILES)
    assert {name: len(read(name)) for name in FILES} == FILE_ROWS


def test_there_is_enough_to_choose_from_and_to_measure_on():
    assert len(POOL) >= 300
    assert len(HELDOUT) >= 60


@pytest.mark.parametrize("name", FILES[:2])
def test_training_rows_have_the_homeworks_schema(name):
    for row in read(name):
        part = ["part"] if name == "heldout.json" else []
        assert list(row) == ["id", "conversations", "score", *part]
        assert isinstance(row["id"], str)
        assert isinstance(row["score"], float)
        turns = row["conversations"]
        assert turns
        assert [m["role"] for m in turns] == ["user", "assistant"] * (len(turns) // 2), row["id"]
        assert all(list(m) == ["role", "content"] for m in turns), row["id"]


def test_test_prompts_are_spelt_like_the_homeworks_test_set():
    for row in TEST_PROMPTS:
        assert list(row) == ["id", "conversations", "score"]
        [message] = row["conversations"]
        assert list(message) == ["from", "value"]
        assert message["from"] == "human"


def test_texts_are_clean():
    for row in POOL + HELDOUT + TEST_PROMPTS:
        for message in row["conversations"]:
            text = message.get("content", message.get("value"))
            assert text and text == text.strip(), row["id"]
            assert "\n\n" not in text and "```" not in text and "\r" not in text, row["id"]


def test_about_one_row_in_eighteen_of_the_pool_has_two_exchanges():
    exchanges = Counter(len(row["conversations"]) // 2 for row in POOL)
    assert set(exchanges) == {1, 2}
    assert len(POOL) / exchanges[2] == pytest.approx(18, abs=1)


# ------------------------------------------------------------------------------------------ no repeats
def test_every_id_occurs_once_over_all_files():
    ids = Counter(row["id"] for row in POOL + HELDOUT + TEST_PROMPTS)
    assert [row_id for row_id, n in ids.items() if n > 1] == []


def test_no_question_occurs_twice_within_or_between_files():
    asked = Counter(questions(POOL) + questions(HELDOUT) + questions(TEST_PROMPTS))
    assert [question for question, n in asked.items() if n > 1] == []


# --------------------------------------------------------------------------------------- the two parts
def test_each_part_of_the_heldout_rows_has_as_many_as_the_readme_says():
    said = dict(re.findall(r"^\| (looking|measuring) \| (\d+) \|", README, re.MULTILINE))
    parts = Counter(row["part"] for row in HELDOUT)
    assert parts == {part: int(count) for part, count in said.items()}


def test_the_two_parts_of_the_heldout_rows_are_alike_in_length():
    for place in (0, 1):  # question, answer
        looking, measuring = (
            [
                len(row["conversations"][place]["content"].split())
                for row in HELDOUT
                if row["part"] == part
            ]
            for part in ("looking", "measuring")
        )
        assert mean(looking) == pytest.approx(mean(measuring), abs=1)
        assert quantiles(looking) == pytest.approx(quantiles(measuring), abs=2)


# --------------------------------------------------------------------------------------------- scores
def test_the_pool_has_as_many_rows_of_each_score_as_the_readme_says():
    assert set(SCORES) == {1, 2, 3, 4, 5}
    assert Counter(row["score"] for row in POOL) == {s: n for s, (_, n) in SCORES.items()}
    assert sum(n for _, n in SCORES.values()) == FILE_ROWS["conversations.json"]


@pytest.mark.parametrize("rows", [POOL, HELDOUT], ids=FILES[:2])
def test_score_5_is_the_house_style_complete_and_of_the_promised_length(rows):
    low, high = map(int, re.search(r"(\d+) to (\d+) words", SCORES[5][0]).groups())
    for answer in answers(rows, 5):
        assert labels(answer) == LABELS, answer
        assert answer.startswith("Short answer: "), answer
        assert low <= len(answer.split()) <= high, answer


def test_every_heldout_reference_answer_is_one_of_the_best():
    assert {row["score"] for row in HELDOUT} == {5.0}


def test_score_4_lacks_the_try_it_line_or_has_a_thin_reason():
    for answer in answers(POOL, 4):
        assert answer.startswith("Short answer: "), answer
        if labels(answer) == LABELS:
            assert len(parts(answer)["Why"].split()) <= 8, answer
        else:
            assert labels(answer) == LABELS[:2], answer


def test_score_5_reasons_are_not_thin():
    for answer in answers(POOL + HELDOUT, 5):
        assert len(parts(answer)["Why"].split()) > 8, answer


def test_score_3_is_one_plain_paragraph():
    for answer in answers(POOL, 3):
        assert "\n" not in answer
        assert not any(label in answer for label in ("Short answer:", "Why:", "Try it:")), answer
        assert len(answer.split()) > 12, answer


def test_score_2_is_one_short_sentence():
    for answer in answers(POOL, 2):
        assert len(re.findall(r"[.!?](?=\s|$)", answer)) == 1, answer
        assert answer[-1] in ".!?", answer
        assert 4 <= len(answer.split()) <= 12, answer


def test_score_1_is_one_to_three_words():
    assert "one to three words" in SCORES[1][0]
    assert all(1 <= len(answer.split()) <= 3 for answer in answers(POOL, 1))


# ---------------------------------------------------------------------------- what the two sorts pick
def test_thin_rows_are_the_shortest_so_the_simple_sort_picks_100_of_them():
    thin = [words(row) for row in POOL if row["score"] <= 2]
    rest = [words(row) for row in POOL if row["score"] > 2]
    assert max(thin) < min(rest)
    first = sorted(POOL, key=words)[:100]
    assert {row["score"] for row in first} == {1.0, 2.0}


def test_the_advanced_sort_picks_100_of_the_best():
    first = sorted(POOL, key=lambda row: 1e-5 * words(row) + row["score"], reverse=True)[:100]
    assert {row["score"] for row in first} == {5.0}
