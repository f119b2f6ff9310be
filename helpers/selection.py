"""Choose and order conversations by a sort key; keep the chosen ones for training."""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import data, homework, letters, shapes, workspace
from helpers.errors import CourseError, need_rows, need_switch
from helpers.presets import MAX_CONVERSATIONS, SEED, size

if TYPE_CHECKING:
    from datasets import Dataset

    from helpers.runs import Run

# Why a file that the course wrote holds something else.
EDITED = "It was edited by hand, or another version of the course wrote it."


def select(
    rows: "Dataset",
    key: Callable[[dict], float | tuple],
    *,
    largest_first: bool = False,
    limit: int = MAX_CONVERSATIONS,
) -> "Dataset":
    """The first ``limit`` rows in the order of ``key``; rows with equal keys keep their order.

    Args:
        rows: the pool.
        key: gives each row a number, or a tuple of numbers of which the first counts most.
        largest_first: from the largest key down.
        limit: how many rows to take.

    Raises:
        CourseError: ``limit`` is above the homework's 100, or below 1; there is no row; or the key stops at a
            row, or returns something that has no place in the order.
    """
    check_count(limit)
    need_rows(rows)
    if not callable(key):
        raise CourseError(
            f"key = {key!r:.40} is no function.",
            "The key is called with each row, and what it returns decides the order.",
            "Give the function itself, without brackets: select(pool, my_key); or lambda row: row['score'].",
        )
    need_switch(largest_first, "largest_first")
    if not len(rows):
        raise CourseError(
            "There is no row to choose from.",
            "A filter left none over.",
            "Let more rows through before you sort.",
        )
    keys = [_checked_key(key, row) for row in rows]
    other = next((i for i, found in enumerate(keys) if len(found) != len(keys[0])), None)
    if other is not None:
        raise _bad_key(
            rows[other],
            f"{len(keys[other])} values, and for the first row {len(keys[0])}",
            "Keys can be compared only where all have the same parts.",
        )
    order = sorted(range(len(rows)), key=keys.__getitem__, reverse=largest_first)
    return rows.select(order[:limit])


def _checked_key(key: Callable[[dict], float | tuple], row: dict) -> tuple:
    """A row's key as a tuple of numbers."""
    try:
        found = key(row)
    except CourseError:
        raise
    # The key is the student's: it can stop with any error, and then the row matters.
    except Exception as error:
        raise CourseError(
            f"The sort key stopped at the conversation {row['id']!r:.40}: {type(error).__name__}: {error}",
            "The key is called once for each row. Either it has a mistake, or this row is not as it expects.",
            "Mend the key; `None` for a score means that the file has none.",
        ) from error
    parts = found if isinstance(found, tuple | list) else (found,)
    for part in parts:
        # isnan stops at whole numbers too large for a float.
        ordered = isinstance(part, int) or (isinstance(part, Real) and not math.isnan(part))
        if not ordered:
            raise _bad_key(row, f"{found!r:.60}", "Rows are ordered by numbers, and this is none.")
    if not parts:
        raise _bad_key(row, f"{found!r}", "Rows are ordered by numbers, and there is none.")
    return tuple(parts)


def _bad_key(row: dict, found: str, why: str) -> CourseError:
    return CourseError(
        f"The sort key returned {found} for the conversation {row['id']!r:.40}.",
        why,
        "Let the key return a number for every row, or a tuple of numbers; a `return` may be missing.",
    )


def check_count(count: int) -> None:
    """Raise CourseError unless 1 ≤ count ≤ 100, the homework's rule."""
    whole = isinstance(count, Integral) and not isinstance(count, bool)
    if not whole or not 1 <= count <= MAX_CONVERSATIONS:
        raise CourseError(
            f"{count} conversations were chosen."
            if whole
            else f"limit = {count!r:.40} is no whole number.",
            f"The homework allows 1 to {MAX_CONVERSATIONS}, over all stages together.",
            f"Choose {'fewer' if whole and count > 1 else 'a whole number of them'}, for instance with "
            "select(…, limit=100).",
        )


def check_rows(rows: "Dataset") -> None:
    """CourseError unless these can be trained on: 1 to 100 conversations, each with an id of its own."""
    need_rows(rows, "conversations")
    check_count(len(rows))
    if twice := [row_id for row_id, count in Counter(rows["id"]).items() if count > 1]:
        raise CourseError(
            f"The id {twice[0]!r:.40} stands more than once among the conversations"
            + (f", and so do {len(twice) - 1} more." if twice[1:] else "."),
            "By its id a conversation is found again. Two selections that share rows were put together, or two files "
            "without ids of their own, whose rows are numbered.",
            "Leave shared rows out of one: selection.without(second, first['id']). Give other rows new ids: "
            "second.map(lambda row: {'id': 'second_' + row['id']}).",
        )


def overlap(rows: "Dataset", test_rows: "Dataset") -> list[tuple[str, str]]:
    """Pairs (training id, test id) of rows that ask the same question, in whichever turn.

    Questions are compared as they look: without capitals, accents, spaces, invisible characters and punctuation
    at the ends, and without what a prompt format wraps around them (see `letters`). Ids are not compared: the
    homework's are row numbers, and its pool and its test set number the rows of different sources (ids up to
    ``identity_52001`` in one, up to ``identity_69938`` in the other).
    """
    need_rows(rows)
    need_rows(test_rows, "test_rows")
    by_question = {letters.bare(data.question(row)): row["id"] for row in test_rows}
    longest = max(map(len, by_question), default=0)
    pairs = []
    for row in rows:
        texts = [m["content"] for m in row["conversations"] if m["role"] != "assistant"]
        asked = (q for text in texts for q in letters.possible_questions(text, longest))
        hit = next((by_question[q] for q in asked if q in by_question), None)
        pairs += [(row["id"], hit)] if hit is not None else []
    return pairs


def check_apart(rows: "Dataset", heldout: "Dataset") -> list[tuple[str, str]]:
    """`overlap` of training rows with held-out ones, printed where there is any; the loss on those is no proof."""
    pairs = overlap(rows, heldout)
    if pairs:
        named = ", ".join(f"{row_id!r:.40} as {asked!r:.40}" for row_id, asked in pairs[:3])
        print(
            f"{len(pairs)} of {len(rows)} training conversations ask what a held-out row asks ({named}"
            f"{', …' if pairs[3:] else ''}): there the held-out loss shows what was memorised. "
            "selection.without(rows, ids) leaves them out."
        )
    return pairs


def without(rows: "Dataset", ids: Iterable[str]) -> "Dataset":
    """The rows whose id is not among ``ids``, in their order; one id alone will do.

    Raises:
        CourseError: there is something else than ids, such as the pairs of `overlap`.
    """
    need_rows(rows)
    unwanted = {ids} if isinstance(ids, str) else set(ids)
    wrong = next((one for one in unwanted if not isinstance(one, str)), None)
    if wrong is not None:
        raise CourseError(
            f"{wrong!r:.60} is no id.",
            f"An id is a text, such as {rows['id'][0]!r:.40}; this is a {type(wrong).__name__}.",
            "Of the pairs of selection.overlap take the first: {training for training, _ in pairs}.",
        )
    if unwanted and not unwanted & set(rows["id"]):
        print(f"No row has one of these {len(unwanted)} ids: all {len(rows)} rows stay.")
    return rows.select([i for i, row_id in enumerate(rows["id"]) if row_id not in unwanted])


def answer_words(row: dict) -> int:
    """Words in the answers of a row: what training learns from."""
    return sum(len(m["content"].split()) for m in row["conversations"] if m["role"] == "assistant")


def fingerprint(rows: Iterable[dict]) -> str:
    """SHA-256 of ids and messages in their order: the same for the same conversations only."""
    content = [
        [row["id"], [[m["role"], m["content"]] for m in row["conversations"]]] for row in rows
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def save_selection(rows: "Dataset", source: str | Path) -> Path:
    """Keep the chosen conversations for notebook 05 as they are now, and the name of the file they come from.

    Raises:
        CourseError: none or more than 100, or a row that cannot be trained on.
    """
    check_rows(rows)
    content = {"source": Path(source).name, "conversations": _checked(rows, "the selection")}
    data.to_prompt_completion(content["conversations"])
    return workspace.write_json("selection.json", content)


def _checked(
    rows: Iterable[object], name: str, why: str = "It was changed after it was read."
) -> list[dict]:
    """The rows in the course's form, or a CourseError that names the first that is not, and says why."""
    checked: dict[str, dict] = {}
    for number, row in enumerate(rows, 1):
        try:
            row = shapes.course_row(row, number)
            if row["id"] in checked:
                raise shapes.Unusable(f"the id {row['id']!r:.40} stands there twice")
        except shapes.Unusable as error:
            raise CourseError(
                f"Row {number} of {name} cannot be trained on: {error}.",
                why,
                "Choose again in notebook 04.",
            ) from error
        checked[row["id"]] = row
    return list(checked.values())


def load_selection() -> "Dataset":
    """The conversations that notebook 04 chose, in their order, else the 100 best of the course's pool.

    Prints which. ``COURSE_SIZE=test`` shortens the list.
    """
    rows = saved_selection()
    if rows is None:
        print(
            "No saved selection in the workspace: the conversations with the best scores are used."
        )
        pool = data.load_conversations(data.OUR_POOL)
        rows = select(pool, homework.advanced_key, largest_first=True)
    else:
        source = workspace.read_json("selection.json")["source"]
        print(f"Using your selection of {len(rows)} conversations from {source}.")
    # At test size every n-th, so that short and long ones are among them.
    count = min(len(rows), size().conversations)
    return rows.select([i * len(rows) // count for i in range(count)])


def saved_selection() -> "Dataset | None":
    """The conversations that notebook 04 chose, in their order, or ``None`` where none were saved.

    Raises:
        CourseError: the file is damaged, or an earlier version of the course wrote it.
    """
    file = workspace.path("selection.json")
    saved = workspace.read_json("selection.json")
    if saved is None:
        return None
    if (
        isinstance(saved, dict)
        and isinstance(saved.get("source"), str)
        and isinstance(saved.get("conversations"), list)
    ):
        check_count(len(saved["conversations"]))
        return data.as_dataset(_checked(saved["conversations"], str(file), EDITED))
    only_ids = isinstance(saved, dict) and "ids" in saved
    raise CourseError(
        f"{file} does not hold {'conversations, only their ids' if only_ids else 'a selection'}.",
        "An earlier version of the course wrote it." if only_ids else EDITED,
        "Run notebook 04 again, or delete the file to get the best of the course's pool.",
    )


def of_run(run: "Run") -> "Dataset":
    """The conversations that a run was trained on: they are kept beside its adapter.

    Raises:
        CourseError: that file is damaged; or it is gone, and the selection in the workspace holds others by now.
    """
    file = run.folder / "conversations.json"
    kept = workspace.read_json(file)
    if kept is None:
        rows = load_selection()
    else:
        rows = _checked(kept, str(file), EDITED) if isinstance(kept, list) else []
    if fingerprint(rows) != run.record.get("data"):
        raise CourseError(
            f"{file} does not hold what the run was trained on."
            if kept is not None
            else f"{file} is gone, and the selection in the workspace is not what the run was trained on.",
            "It was edited by hand, or the run was made by an earlier version of the course."
            if kept is not None
            else "It was deleted or moved.",
            "Put the file back, or train again in notebook 05.",
        )
    return data.as_dataset(rows)


def shuffled_answers(rows: "Dataset", seed: int = SEED) -> "Dataset":
    """The same questions and the same answers, but each question with an answer of another row.

    A control: the form of the answers can still be learned from it, but nothing that ties an answer to its
    question. Ids get the ending ``-shuffled``.

    Raises:
        CourseError: one row holds more than half of all answers, so that some would stay in it.
    """
    need_rows(rows)
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
