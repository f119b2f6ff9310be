"""Read and check conversations, and turn them into rows for TRL."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import workspace
from helpers.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset

OUR_POOL = workspace.KIT / "data" / "conversations.json"
OUR_HELDOUT = workspace.KIT / "data" / "heldout.json"
OUR_TEST_SET = workspace.KIT / "data" / "test_prompts.json"

# The homework's own data, fetched on request and never part of this repository.
HOMEWORK_REPO = "https://github.com/ericsunkuan/ML_Spring2025_HW5.git"
HOMEWORK_COMMIT = "9a33fb0"

# How the two spellings of the homework, and ShareGPT-like files, name a speaker.
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
ROLES |= {"system": "system"}

# The words that Alpaca's training format puts before an instruction (Taori et al. 2023).
ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


# ---------------------------------------------------------------------------------------- reading
def load_conversations(path: str | Path, *, skip_empty_answers: bool = False) -> "Dataset":
    """Read conversations from a file or a saved-dataset folder.

    Understands the homework's training rows (``role``/``content``), its test rows (``from``/``value``, no
    answers), Alpaca rows (``instruction``, ``input``, ``output``), each as a JSON array or as JSON lines,
    and a folder written by ``Dataset.save_to_disk``.

    Args:
        path: the file or folder.
        skip_empty_answers: leave out rows with an answer of no characters, and print how many; Alpaca's
            52,002 rows hold 28. Without it such a row is an error, as any malformed row.

    Returns:
        A dataset with columns ``id`` (str), ``conversations`` (list of ``{"role", "content"}``) and
        ``score`` (float, or None where the source has none). Rows without an id get ``row_<number>``.

    Raises:
        CourseError: the file is missing, empty, cut off or not UTF-8, or a row is malformed; the message
            names the file and the row.
    """
    from datasets import Dataset, Features, Value

    path = Path(path)
    numbered = dict(enumerate(_read_rows(path), 1))
    if skip_empty_answers:
        empty = [number for number, raw in numbered.items() if _has_empty_answer(raw)]
        for number in empty:
            del numbered[number]
        if empty:
            print(
                f"{path.name}: {len(empty)} rows with an empty answer left out, first row {empty[0]}."
            )
    if not numbered:
        raise CourseError(
            f"{path.name} has no row with an answer.",
            "Every answer in it is empty.",
            "Choose another file.",
        )
    cleaned = {number: _clean_row(raw, number, path.name) for number, raw in numbered.items()}
    rows = list(cleaned.values())
    seen: dict[str, int] = {}
    for number, row in cleaned.items():
        if row["id"] in seen:
            raise CourseError(
                f"{path.name}, row {number}: the id {row['id']!r} also belongs to row {seen[row['id']]}.",
                "Selections and predictions are kept by id, so ids must differ.",
                "Give one of the two rows another id.",
            )
        seen[row["id"]] = number
    message = {"role": Value("string"), "content": Value("string")}
    features = {"id": Value("string"), "conversations": [message], "score": Value("float64")}
    return Dataset.from_list(rows, features=Features(features))


def _read_rows(path: Path) -> list:
    if path.is_dir():
        return _read_folder(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CourseError(
            f"There is no file {path}.",
            "The name may be misspelt, or the file lies on another machine.",
            f"Look into {path.parent} and correct the name.",
        ) from error
    except OSError as error:
        raise CourseError(
            f"{path} cannot be read: {error.strerror}.",
            "It is no file, or not yours to read.",
            f"Look into {path.parent} and correct the name.",
        ) from error
    except UnicodeDecodeError as error:
        raise CourseError(
            f"{path.name} is not UTF-8 text (byte {error.start}).",
            "JSON files are UTF-8; another encoding would garble letters in silence.",
            "Save the file again as UTF-8.",
        ) from error
    if not text.strip():
        raise CourseError(
            f"{path.name} is empty.",
            "It should hold a JSON array of conversations, or one JSON object a line.",
            "Check where the file came from; a download may have failed.",
        )
    try:
        content = json.loads(text)
        rows = content if isinstance(content, list) else [content]
    except ValueError as whole_error:
        rows = _read_lines(path, text, whole_error)
    if not rows:
        raise CourseError(
            f"{path.name} has no rows.", "Its array is empty.", "Choose another file."
        )
    return rows


def _read_lines(path: Path, text: str, whole_error: ValueError) -> list:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as line_error:
            as_lines = text.lstrip().startswith("{")
            where = f"line {number}: {line_error}" if as_lines else str(whole_error)
            raise CourseError(
                f"{path.name} is not complete JSON ({where}).",
                "The file is cut off or was edited by hand.",
                "Fetch it again, or mend it at that place.",
            ) from line_error
    return rows


def _read_folder(path: Path) -> list:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CourseError(
            f"The folder {path} is not a saved dataset ({error}).",
            "A folder can be read if Dataset.save_to_disk wrote it.",
            "Give the path of a JSON file, or of such a folder.",
        ) from error
    if isinstance(saved, DatasetDict):
        saved = saved["train"] if "train" in saved else next(iter(saved.values()))
    return saved.to_list()


def _clean_row(raw: object, number: int, source: str) -> dict:
    """One row in the course's form; ``number`` counts from 1, for messages and made-up ids."""

    def bad(why: str) -> CourseError:
        rule = 'A row is {"id": …, "conversations": [{"role": …, "content": …}, …], "score": …}.'
        todo = "Mend or delete that row."
        if _has_empty_answer(raw):
            todo += " Or leave such rows out: load_conversations(…, skip_empty_answers=True)."
        return CourseError(f"{source}, row {number}: {why}.", rule, todo)

    if not isinstance(raw, dict):
        raise bad(f"a {type(raw).__name__} instead of an object")
    if "instruction" in raw and "conversations" not in raw:
        messages = _alpaca_messages(raw, bad)
    else:
        messages = raw.get("conversations", raw.get("messages"))
    if not isinstance(messages, list) or not messages:
        raise bad("no conversation")
    cleaned = []
    for message in messages:
        if not isinstance(message, dict):
            raise bad("a message that is not an object")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            raise bad(f"unknown role {role!r} (known: {', '.join(ROLES)})")
        if not isinstance(content, str) or not content.strip():
            raise bad(f"the {ROLES[role]}'s message is empty or not text")
        if re.search("[\ud800-\udfff]", content):
            raise bad(f"the {ROLES[role]}'s message holds half a letter (a lone surrogate)")
        cleaned.append({"role": ROLES[role], "content": content})
    turns = [m["role"] for m in cleaned if m["role"] != "system"]
    if (
        turns != ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2)
        or not turns
    ):
        raise bad("user and assistant do not take turns, the user first")
    score, row_id = raw.get("score"), raw.get("id")
    number_like = isinstance(score, int | float) and not isinstance(score, bool)
    if score is not None and not (number_like and abs(score) <= sys.float_info.max):
        raise bad(f"score {score!r:.40} is not a number")
    if row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, str | int)):
        raise bad(f"id {row_id!r} is not text")
    row_id = f"row_{number}" if row_id is None else str(row_id)
    return {
        "id": row_id,
        "conversations": cleaned,
        "score": None if score is None else float(score),
    }


def _has_empty_answer(raw: object) -> bool:
    """Whether an answer of a raw row, in any spelling, is a text of no visible characters."""
    if not isinstance(raw, dict):
        return False
    messages = raw.get("conversations", raw.get("messages"))
    if messages is None:
        answers = [raw.get("output")]
    else:
        messages = messages if isinstance(messages, list) else []
        spoken = [m for m in messages if isinstance(m, dict)]
        answers = [
            m.get("content", m.get("value"))
            for m in spoken
            if m.get("role", m.get("from")) in ("assistant", "gpt")
        ]
    return any(isinstance(answer, str) and not answer.strip() for answer in answers)


def _alpaca_messages(raw: dict, bad: Callable[[str], CourseError]) -> list[dict]:
    parts = [raw.get("instruction"), raw.get("input") or "", raw.get("output")]
    if not all(isinstance(part, str) for part in parts):
        raise bad("instruction, input and output must be text")
    question = "\n".join(part for part in parts[:2] if part)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": parts[2]}]


def fetch_homework() -> Path:
    """Fetch the homework's repository into the workspace, once; return its folder.

    It holds the pool of 52,002 conversations, as ``fastchat_alpaca_52k.json`` and as a saved-dataset folder
    ``fastchat_alpaca_52k``, and the test set. They are for the student's own use: Alpaca's licence forbids
    commercial use, and the course does not pass them on.
    """
    folder = workspace.path("homework")
    if folder.exists():
        return folder
    workspace.need_space(0.2, "the homework's data")
    with tempfile.TemporaryDirectory(dir=workspace.root()) as scratch:
        clone = Path(scratch) / "clone"
        for step in (
            ["git", "clone", "--quiet", HOMEWORK_REPO, str(clone)],
            ["git", "-C", str(clone), "checkout", "--quiet", HOMEWORK_COMMIT],
        ):
            try:
                done = subprocess.run(step, capture_output=True, text=True, check=False)
                failed, said = done.returncode != 0, done.stderr.strip()
            except FileNotFoundError:
                failed, said = True, "there is no program called git on this machine"
            if failed:
                reason = (said.splitlines() or ["no reason given"])[-1]
                raise CourseError(
                    f"The homework's data could not be fetched: {reason}",
                    "This needs git, and a network that reaches GitHub.",
                    "Try again later, or go on with the course's own conversations.",
                )
        clone.replace(folder)
    return folder


def pool_path() -> Path:
    """The pool to choose from: the homework's if it was fetched, else the course's own.

    Read the homework's with ``skip_empty_answers=True``: Alpaca has some.
    """
    fetched = workspace.path("homework", "fastchat_alpaca_52k.json")
    return fetched if fetched.exists() else OUR_POOL


def test_set_path() -> Path:
    """The test set to answer: ``COURSE_TEST_SET``, else the homework's if fetched, else the course's."""
    if os.environ.get("COURSE_TEST_SET"):
        return Path(os.environ["COURSE_TEST_SET"])
    fetched = workspace.path("homework", "test_set_evol_instruct_150.json")
    return fetched if fetched.exists() else OUR_TEST_SET


def with_preamble(rows: "Dataset") -> "Dataset":
    """The same conversations with Alpaca's preamble before the first question, as the test set has it."""

    changed = rows.to_list()
    for row in changed:
        first = next(message for message in row["conversations"] if message["role"] == "user")
        if not first["content"].startswith(ALPACA_PREAMBLE):
            first["content"] = f"{ALPACA_PREAMBLE} ### Instruction: {first['content']}"
    return type(rows).from_list(changed, features=rows.features)


def question(row: dict) -> str:
    """The last question of a row, without Alpaca's preamble."""
    return asked(row)[-1]


def asked(row: dict) -> list[str]:
    """All questions of a row, without Alpaca's preamble."""
    texts = [m["content"] for m in row["conversations"] if m["role"] == "user"]
    bare = [text.removeprefix(ALPACA_PREAMBLE).strip() for text in texts]
    return [text.removeprefix("### Instruction:").strip() for text in bare]


# ------------------------------------------------------------------------------ rows for training
def to_prompt_completion(rows: "Dataset") -> "Dataset":
    """Conversations to TRL's conversational prompt/completion rows, one for each answer.

    A conversation with two answers gives two rows: the second one's prompt holds the first exchange. So
    the loss covers every answer once and no question.

    Returns:
        A dataset with columns ``prompt`` and ``completion``, each a list of messages.
    """
    from datasets import Dataset

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


def check_lengths(rows: "Dataset", tokenizer, max_seq_length: int) -> list[int]:
    """Tokens of each conversation, template included; CourseError if one is longer than the limit."""
    lengths = [
        len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
        for messages in rows["conversations"]
    ]
    long = [
        (row_id, n) for row_id, n in zip(rows["id"], lengths, strict=True) if n > max_seq_length
    ]
    if long:
        row_id, tokens = long[0]
        raise CourseError(
            f"The conversation {row_id!r} has {tokens} tokens ({len(long)} such), "
            f"and max_seq_length is {max_seq_length}.",
            "The rest would be cut off: the model would learn to stop in the middle.",
            "Choose other conversations in notebook 04, or a larger max_seq_length.",
        )
    return lengths


def questions(rows: Iterable[dict]) -> list[list[dict]]:
    """The messages up to the last question of each row, ready for a chat template."""
    prompts = []
    for row in rows:
        messages = list(row["conversations"])
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        prompts.append(messages)
    return prompts
