"""Choose and order conversations by a sort key; keep the chosen ids for training."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import data, workspace
from helpers.errors import CourseError
from helpers.presets import MAX_CONVERSATIONS, SEED, size

if TYPE_CHECKING:
    from datasets import Dataset


def words(row: dict) -> int:
    """Total word count of a row: all messages, split at spaces, as the homework counts."""
    return sum(len(message["content"].split()) for message in row["conversations"])


def simple_key(row: dict) -> float:
    """The homework's *simple* sort key: total words; small first."""
    return words(row)


def advanced_key(row: dict) -> float:
    """The homework's *advanced* sort key: 1e-5 · words + score; large first."""
    if row["score"] is None:
        raise CourseError(
            f"The conversation {row['id']!r} has no score.",
            "The advanced key sorts by score.",
            "Use simple_key or a key of your own.",
        )
    return 1e-5 * words(row) + row["score"]


def select(
    rows: "Dataset",
    key: Callable[[dict], float],
    *,
    largest_first: bool = False,
    limit: int = MAX_CONVERSATIONS,
) -> "Dataset":
    """The first ``limit`` rows in the order of ``key``; rows with equal keys keep their order.

    Raises:
        CourseError: ``limit`` is above the homework's 100, or below 1.
    """
    check_count(limit)
    keys = [key(row) for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__, reverse=largest_first)
    return rows.select(order[:limit])


def check_count(count: int) -> None:
    """Raise CourseError unless 1 ≤ count ≤ 100, the homework's rule."""
    if not 1 <= count <= MAX_CONVERSATIONS:
        raise CourseError(
            f"{count} conversations were chosen.",
            f"The homework allows 1 to {MAX_CONVERSATIONS}, over all stages together.",
            "Choose fewer, for instance with select(…, limit=100).",
        )


def overlap(rows: "Dataset", test_rows: "Dataset") -> list[tuple[str, str]]:
    """Pairs (training id, test id) of rows that ask the same question, in whichever turn.

    Questions are compared without Alpaca's preamble, upper case and extra spaces. Ids are not compared:
    the homework's are row numbers, and its pool and its test set number the rows of different sources
    (ids up to ``identity_52001`` in one, up to ``identity_69938`` in the other).
    """

    def plain(text: str) -> str:
        return " ".join(text.lower().split())

    by_question = {plain(data.question(row)): row["id"] for row in test_rows}
    pairs = []
    for row in rows:
        hits = [by_question[q] for q in map(plain, data.asked(row)) if q in by_question]
        pairs += [(row["id"], hit) for hit in hits[:1]]
    return pairs


def without(rows: "Dataset", ids: Iterable[str]) -> "Dataset":
    """The rows whose id is not among ``ids``, in their order."""
    unwanted = set(ids)
    return rows.select([i for i, row_id in enumerate(rows["id"]) if row_id not in unwanted])


def answer_words(row: dict) -> int:
    """Words in the answers of a row: what training learns from."""
    return sum(len(m["content"].split()) for m in row["conversations"] if m["role"] == "assistant")


def save_selection(rows: "Dataset", source: str | Path) -> Path:
    """Keep the chosen ids for notebook 05, and the file they come from.

    A file inside the workspace or the course is named from there, so that a workspace on Drive also works
    beside a newer course.
    """
    check_count(len(rows))
    source = Path(source).resolve()
    for home in (workspace.root().resolve(), workspace.KIT):
        if source.is_relative_to(home):
            source = source.relative_to(home)
            break
    content = {"source": source.as_posix(), "ids": list(rows["id"])}
    return workspace.write_json("selection.json", content)


def load_selection() -> "Dataset":
    """The conversations that notebook 04 chose, in their order, else the 100 best of the course's pool.

    Prints which. ``COURSE_SIZE=test`` shortens the list.
    """
    saved = workspace.read_json("selection.json")
    if saved is None:
        print(
            "No saved selection in the workspace: the conversations with the best scores are used."
        )
        rows = select(data.load_conversations(data.OUR_POOL), advanced_key, largest_first=True)
    elif not isinstance(saved, dict) or not (
        isinstance(saved.get("source"), str) and isinstance(saved.get("ids"), list)
    ):
        raise CourseError(
            f"{workspace.path('selection.json')} does not hold a selection.",
            "It was probably edited by hand.",
            "Run notebook 04 again, or delete the file to get the best of the course's pool.",
        )
    else:
        places = [home / saved["source"] for home in (workspace.root(), workspace.KIT)]
        source = next((place for place in places if place.exists()), Path(saved["source"]))
        pool = data.load_conversations(source, skip_empty_answers=True)
        place = {row_id: index for index, row_id in enumerate(pool["id"])}
        missing = [row_id for row_id in saved["ids"] if row_id not in place]
        if missing:
            raise CourseError(
                f"{len(missing)} chosen ids, such as {missing[0]!r}, are not in {saved['source']}.",
                "The file has changed since notebook 04 chose from it.",
                "Run notebook 04 again.",
            )
        check_count(len(saved["ids"]))
        rows = pool.select([place[row_id] for row_id in saved["ids"]])
        print(
            f"Using your selection of {len(rows)} conversations from {Path(saved['source']).name}."
        )
    # At test size every n-th, so that short and long ones are among them.
    count = min(len(rows), size().conversations)
    return rows.select([i * len(rows) // count for i in range(count)])


def of_run(record: dict) -> "Dataset":
    """The conversations that a run was trained on, by its ``run.json``.

    Raises:
        CourseError: the selection in the workspace holds others by now.
    """
    rows = load_selection()
    if list(rows["id"]) != record["ids"]:
        raise CourseError(
            "The selection in the workspace is not the one that this run was trained on.",
            "You chose others in notebook 04 since, or COURSE_SIZE changed. Only runs on the same rows can be "
            "compared.",
            "Run notebook 05 again, or go back to your earlier selection in notebook 04.",
        )
    return rows


def shuffled_answers(rows: "Dataset", seed: int = SEED) -> "Dataset":
    """The same questions and the same answers, but each question with an answer of another row.

    A control: the form of the answers can still be learned from it, but nothing that ties an answer to its
    question. Ids get the ending ``-shuffled``.

    Raises:
        CourseError: one row holds more than half of all answers, so that some would stay in it.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    # All answers in a circle, those of a row side by side, in random order of the rows. Each moves on by as
    # many places as the row with most answers has: so none stays in its row.
    places = [
        (i, turn)
        for i in order
        for turn, message in enumerate(rows[i]["conversations"])
        if message["role"] == "assistant"
    ]
    shift = max(Counter(i for i, _ in places).values(), default=0)
    if not places or 2 * shift > len(places):
        raise CourseError(
            "The answers of one row cannot all go to other rows.",
            "Shuffling needs at least two rows, and no row with more than half of all answers.",
            "Choose more conversations in notebook 04.",
        )
    shuffled = rows.to_list()
    for (giver, turn), (taker, place) in zip(
        places, [*places[shift:], *places[:shift]], strict=True
    ):
        shuffled[taker]["conversations"][place] = rows[giver]["conversations"][turn]
    for row in shuffled:
        row["id"] += "-shuffled"
    return type(rows).from_list(shuffled)
