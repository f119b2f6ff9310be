"""Read and check conversations, and turn them into rows for TRL."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import homework, reading, settings, shapes, tokens, workspace
from helpers.errors import CourseError, check_whole, need_path, need_rows
from helpers.shapes import Unusable

if TYPE_CHECKING:
    from datasets import Dataset

OUR_POOL = workspace.KIT / "data" / "conversations.json"
OUR_HELDOUT = workspace.KIT / "data" / "heldout.json"
OUR_TEST_SET = workspace.KIT / "data" / "test_prompts.json"

# What held-out rows are for, as their field "part" says: looking at while a model is trained, or measuring it after.
PARTS = ("looking", "measuring")
# Of a file that does not say it, every fourth row is for looking; of fewer rows than these, every row is for both.
LOOKING_EVERY, TOO_FEW_TO_SPLIT = 4, 8


# ---------------------------------------------------------------------------------------- reading
def load_conversations(
    path: str | Path, *, skip_unusable: bool = False, tokenizer=None
) -> "Dataset":
    """Read conversations from a file or a saved-dataset folder.

    Files: a JSON array, JSON lines, several of them joined, CSV, Parquet, a folder written by
    ``Dataset.save_to_disk``. Rows: the homework's two spellings (``role``/``content``, ``from``/``value``),
    OpenAI's ``messages``, Alpaca's ``instruction``, ``input``, ``output``, TRL's ``prompt``, ``completion``.
    Fields beside these are not read, and named in a printed line.

    Args:
        path: the file or folder.
        skip_unusable: leave out the rows that cannot be used, and print how many and why; Alpaca's 52,002 rows
            hold 28 with an empty answer. Without it the first such row is an error.
        tokenizer: with one, a row that its chat template refuses or shortens cannot be used either.

    Returns:
        A dataset with columns ``id`` (str), ``conversations`` (list of ``{"role", "content"}``) and
        ``score`` (float, or None where the source has none). Rows without an id get ``row_<number>``.

    Raises:
        CourseError: the file is missing, empty, cut off or of an unknown kind, or a row cannot be used; the
            message names the file and the row.
    """
    path = need_path(path)
    raw_rows = reading.raw_rows(path)
    rows: dict[str, dict] = {}
    numbers: dict[str, int] = {}
    refused: dict[str, list[int]] = {}
    unread: Counter = Counter()
    for number, raw in enumerate(raw_rows, 1):
        try:
            row = shapes.course_row(raw, number, unread)
            if tokenizer is not None:
                tokens.check_template(tokenizer, row["conversations"])
            if row["id"] in rows:
                raise Unusable(
                    f"the id {row['id']!r:.40} also belongs to row {numbers[row['id']]}",
                    "an id that an earlier row has",
                )
        except Unusable as error:
            if not skip_unusable:
                raise _unusable_row(path.name, number, error) from error
            refused.setdefault(error.kind, []).append(number)
            continue
        rows[row["id"]], numbers[row["id"]] = row, number
    if set(_parts(raw_rows)) <= {"", *PARTS}:
        del unread["part"]  # `heldout` reads it
    _report(path.name, len(raw_rows), refused, unread)
    if not rows:
        raise CourseError(
            f"{path.name} has no row that can be used.",
            f"The first one: {next(iter(refused))}.",
            "Choose another file.",
        )
    return as_dataset(rows.values())


def as_dataset(rows: Iterable[dict]) -> "Dataset":
    """Rows in the course's form as a dataset with the right types, also where every score is missing."""
    from datasets import Dataset, Features, Value

    message = {"role": Value("string"), "content": Value("string")}
    features = {"id": Value("string"), "conversations": [message], "score": Value("float64")}
    return Dataset.from_list(list(rows), features=Features(features))


def _unusable_row(source: str, number: int, error: Unusable) -> CourseError:
    return CourseError(
        f"{source}, row {number}: {error}.",
        'A row is {"id": …, "conversations": [{"role": …, "content": …}, …], "score": …}, or has the fields of '
        "Alpaca (instruction, input, output) or TRL (prompt, completion).",
        "Mend or delete that row. Where a cell of yours reads the file, load_conversations(…, skip_unusable=True) leaves such rows out.",
    )


def _report(source: str, count: int, refused: dict[str, list[int]], unread: Counter) -> None:
    """Print what was left out of a file."""
    if refused:
        out = sum(map(len, refused.values()))
        print(f"{source}: {out:,} of {count:,} rows left out.")
        most = sorted(refused.items(), key=lambda item: -len(item[1]))
        for kind, numbers in most[:6]:
            print(f"  {len(numbers):,} × {kind} (first: row {numbers[0]:,})")
        if len(most) > 6:
            print(f"  {sum(len(numbers) for _, numbers in most[6:]):,} × other reasons")
    if unread:
        names = ", ".join(f"{name!r:.40}" for name, _ in unread.most_common(6))
        print(f"{source}: not read: {names}{', …' if len(unread) > 6 else ''}.")


# ---------------------------------------------------------------------------------- where data lies


def pool_path() -> Path:
    """The pool to choose from: the homework's if it was fetched, else the course's own.

    Read the homework's with ``skip_unusable=True``: Alpaca has empty answers.
    """
    fetched = workspace.path("homework", "fastchat_alpaca_52k.json")
    return fetched if fetched.exists() else OUR_POOL


def test_set_path() -> Path:
    """The test set to answer: ``COURSE_TEST_SET``, else the homework's if fetched, else the course's."""
    named = _named("COURSE_TEST_SET")
    if named is None:
        fetched = workspace.path("homework", "test_set_evol_instruct_150.json")
        return fetched if fetched.exists() else OUR_TEST_SET
    return named


def heldout_path() -> Path:
    """The held-out rows, with answers: ``COURSE_HELDOUT``, else the course's."""
    return _named("COURSE_HELDOUT") or OUR_HELDOUT


def _named(variable: str) -> Path | None:
    named = settings.path(variable)
    if named is not None and not named.exists():
        raise CourseError(
            f"{variable} names {named}, and no such file is there.",
            "The name may be misspelt, or the file lies on another machine.",
            f"Set it again, or take the course's: %env {variable}=",
        )
    return named


# ------------------------------------------------------------------------------------- held-out rows


def heldout(part: str, limit: int | None = None) -> "Dataset":
    """The held-out rows of one part: ``"looking"``, to watch a training on, or ``"measuring"``, for notebook 06.

    What is chosen by a look (when to stop, a learning rate) suits the looking rows a little too well; so the other
    rows are not looked at before the end. In the file each row says in its field ``part`` what it is for. Of a file
    without that field every fourth row is for looking; of one with fewer than 8 rows all are for both, which is
    printed.

    Args:
        part: ``"looking"`` or ``"measuring"``.
        limit: at most so many rows, the first ones of the part; ``None`` means all.

    Raises:
        CourseError: the file cannot be read (see `load_conversations`), a row does not end with an answer, or its
            fields ``part`` do not say of every row what it is for.
    """
    if part not in PARTS:
        raise CourseError(
            f"part = {part!r:.40} is no part of the held-out rows.",
            "They are in two parts, so that what is measured at the end was not looked at before.",
            f"Use one of {', '.join(map(repr, PARTS))}.",
        )
    if limit is not None:
        limit = check_whole("limit", limit, 1)
    path = heldout_path()
    rows = load_conversations(path)
    for row in rows:
        if row["conversations"][-1]["role"] != "assistant":
            raise CourseError(
                f"The held-out row {row['id']!r:.40} in {path.name} does not end with an answer.",
                "The loss on held-out rows is that of their answers.",
                "Give it an answer, or name another file in COURSE_HELDOUT; questions alone are a test set: "
                "COURSE_TEST_SET.",
            )
    chosen = [i for i, its_parts in enumerate(_split(path)) if part in its_parts]
    return rows.select(chosen[:limit])


def _split(path: Path) -> list[tuple[str, ...]]:
    """What each row of a held-out file is for."""
    parts = _parts(reading.raw_rows(path))
    if set(parts) == set(PARTS):
        return [(part,) for part in parts]
    if set(parts) != {""}:
        found = ", ".join(f"{part!r:.40}" if part else "none" for part in sorted(set(parts))[:6])
        raise CourseError(
            f'The fields "part" in {path.name} do not divide its rows in two (found: {found}).',
            "With such a field every row is for looking or for measuring, and each part has a row.",
            f"Write {' or '.join(map(repr, PARTS))} into each row; or none at all, then every fourth row is for looking.",
        )
    if len(parts) < TOO_FEW_TO_SPLIT:
        print(
            f"{path.name} has {len(parts)} rows, too few for two parts: what is measured at the end was also looked at "
            "while training."
        )
        return [PARTS] * len(parts)
    return [("looking",) if i % LOOKING_EVERY == 0 else ("measuring",) for i in range(len(parts))]


def _parts(raw_rows: list) -> list[str]:
    """The field ``part`` of each row of a file; empty where there is none."""
    fields = [raw.get("part") if isinstance(raw, dict) else None for raw in raw_rows]
    return ["" if field is None else str(field).strip().lower() for field in fields]


# ------------------------------------------------------------------------------------------ questions


def question(row: dict) -> str:
    """The last question of a row, without Alpaca's preamble."""
    return asked(row)[-1]


def asked(row: dict) -> list[str]:
    """All questions of a row, without Alpaca's preamble and its closing ``### Response:``."""
    texts = [m["content"] for m in row["conversations"] if m["role"] == "user"]
    bare = [text.strip().removeprefix(homework.PREAMBLE).strip() for text in texts]
    bare = [text.removeprefix("### Instruction:").removesuffix("### Response:") for text in bare]
    return [text.strip() for text in bare]


# ------------------------------------------------------------------------------ rows for training
def to_prompt_completion(rows: "Dataset | list[dict]") -> "Dataset":
    """Conversations to TRL's conversational prompt/completion rows, one for each answer.

    A conversation with two answers gives two rows: the second one's prompt holds the first exchange. So
    the loss covers every answer once and no question.

    Returns:
        A dataset with columns ``prompt`` and ``completion``, each a list of messages.
    """
    from datasets import Dataset

    if not isinstance(rows, list):
        need_rows(rows)
    pairs = []
    for row in rows:
        messages = row["conversations"]
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise CourseError(
                f"The conversation {row['id']!r} has no answer.",
                "Training learns from answers; the test set has none on purpose.",
                "Choose conversations from the pool, not from the test set.",
            )
        pairs += [{"prompt": messages[:i], "completion": [messages[i]]} for i in answers]
    return Dataset.from_list(pairs)


def row_lengths(rows: "Dataset", tokenizer) -> list[int]:
    """Tokens of each training row that conversations make (`to_prompt_completion`), template included."""
    pairs = to_prompt_completion(rows)
    return [len(tokens.token_ids(tokenizer, pair["prompt"] + pair["completion"])) for pair in pairs]


def check_lengths(rows: "Dataset", tokenizer, max_length: int) -> list[int]:
    """Tokens of each conversation, template included.

    Raises:
        CourseError: the chat template refuses a conversation, or one is longer than the limit.
    """
    check_template(rows, tokenizer)
    lengths = [len(tokens.token_ids(tokenizer, messages)) for messages in rows["conversations"]]
    long = [(row_id, n) for row_id, n in zip(rows["id"], lengths, strict=True) if n > max_length]
    if long:
        row_id, count = long[0]
        raise CourseError(
            f"The conversation {row_id!r} has {count} tokens ({len(long)} such), "
            f"and max_length is {max_length}.",
            "The rest would be cut off: the model would learn to stop in the middle.",
            "Leave such rows out: selection.without(rows, ids). Or give choice and model a larger max_length.",
        )
    return lengths


def check_template(rows: "Dataset", tokenizer) -> None:
    """CourseError, with the id, if this tokenizer's chat template refuses or shortens a conversation."""
    need_rows(rows)
    for row_id, messages in zip(rows["id"], rows["conversations"], strict=True):
        try:
            tokens.check_template(tokenizer, messages)
        except Unusable as error:
            raise CourseError(
                f"The conversation {row_id!r:.40} cannot be used: {error}.",
                "A model is trained on what its chat template makes of the messages. Other models' templates "
                "take other orders of speakers.",
                "Choose other conversations in notebook 04: load_conversations(…, tokenizer=tokenizer, "
                "skip_unusable=True) leaves all such rows out.",
            ) from error


def questions(rows: Iterable[dict]) -> list[list[dict]]:
    """The messages up to the last question of each row, ready for a chat template."""
    if isinstance(rows, dict):  # a slice of a dataset
        need_rows(rows)
    prompts = []
    for row in rows:
        messages = list(row["conversations"])
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        prompts.append(messages)
    return prompts
