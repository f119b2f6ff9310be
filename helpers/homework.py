"""What the course takes from the homework (Hung-yi Lee, Machine Learning 2025, HW 5), and gives back to it.

Its conversations and test set, its two sort keys, its decoding, its two files.
"""

import contextlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import presets, workspace
from helpers.choice import choice_from
from helpers.errors import CourseError, need_rows

if TYPE_CHECKING:
    from datasets import Dataset

# The homework's own data, fetched on request and never part of this repository.
REPO = "https://github.com/ericsunkuan/ML_Spring2025_HW5.git"
COMMIT = "9a33fb0"
# The words that Alpaca's training format puts before an instruction (Taori et al. 2023).
PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
# What answers of a run's model are written to, in the run's folder.
OF_ANSWERS = ("pred.json", "pred_about.json", "training_config.json", "results.json")
# The homework's decoding: sampled, and hot.
DECODING = {"temperature": 1.5, "top_p": 0.9, "top_k": 30, "max_new_tokens": 100}


# ---------------------------------------------------------------------------------------- its data
def fetch() -> Path:
    """Fetch the homework's repository into the workspace, once, or put its files right there; return its folder.

    It holds the pool of 52,002 conversations, as ``fastchat_alpaca_52k.json`` and as a saved-dataset folder
    ``fastchat_alpaca_52k``, and the test set. They are for the student's own use: Alpaca's licence forbids
    commercial use, and the course does not pass them on.
    """
    folder = workspace.path("homework")
    if folder.exists():
        with contextlib.suppress(OSError):
            _bring_back(folder)
        return folder
    workspace.need_space(0.2, "the homework's data")
    try:
        scratch = tempfile.TemporaryDirectory(dir=workspace.root())
    except OSError as error:
        raise workspace.cannot_make(folder, error) from error
    with scratch:
        _clone_homework(Path(scratch.name) / "clone").replace(folder)
    return folder


def _bring_back(folder: Path) -> None:
    """Bring back what is missing or changed in the homework's folder; a changed file stays beside it."""
    git = ["git", "-C", str(folder)]
    asked = [*git, "diff", "--name-only", "-z", COMMIT]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    for name in filter(None, said.stdout.split("\0")):
        file = folder / name
        changed = file.with_name(f"changed-{file.name}")
        if was_there := file.exists():
            file.replace(changed)
        back = [*git, "checkout", "--quiet", COMMIT, "--", name]
        done = subprocess.run(back, capture_output=True, check=False)
        if not was_there:
            continue
        if done.returncode:  # no room, for instance: what was there stays
            changed.replace(file)
        else:
            print(
                f"{name} was not as fetched: it is {changed.name} now, and the fetched one is back."
            )


def _clone_homework(clone: Path) -> Path:
    """The homework's repository at its commit, in a folder that is not there yet."""
    for step in (
        ["git", "clone", "--quiet", REPO, str(clone)],
        ["git", "-C", str(clone), "checkout", "--quiet", COMMIT],
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
    return clone


def with_preamble(rows: "Dataset") -> "Dataset":
    """The same conversations with Alpaca's preamble before the first question, as the test set has it."""
    need_rows(rows)
    changed = rows.to_list()
    for row in changed:
        first = next(message for message in row["conversations"] if message["role"] == "user")
        if not first["content"].startswith(PREAMBLE):
            first["content"] = f"{PREAMBLE} ### Instruction: {first['content']}"
    return type(rows).from_list(changed, features=rows.features)


# ---------------------------------------------------------------------------------------- its sort keys
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


# ---------------------------------------------------------------------------------------- its files
def write_predictions(
    path: str | Path,
    prompts: Sequence[list[dict]],
    ids: Sequence[str],
    answers: Sequence[str],
    model: str,
) -> Path:
    """Write the homework's ``pred.json``: ``{id: {"input": messages, "output": [answer]}}``.

    Args:
        path: the file; a second one, ``<name>_about.json`` beside it, names the base model.
        prompts, ids, answers: one of each for every row of the test set.
        model: the base model's preset name or hub id. If it is not the homework's, this is said.
    """
    if not len(prompts) == len(ids) == len(answers):
        raise CourseError(
            f"{len(prompts)} prompts, {len(ids)} ids and {len(answers)} answers do not match.",
            "Each row of the test set needs one answer.",
            "Generate the answers again for all prompts.",
        )
    if twice := [row_id for row_id, count in Counter(ids).items() if count > 1]:
        raise CourseError(
            f"{len(twice)} ids stand more than once in the test set, the first of them {twice[0]!r}.",
            "The file has one entry for each id, so an answer would be lost.",
            "Give every row of the test set an id of its own.",
        )
    path = Path(path).absolute()
    content = {
        row_id: {"input": prompt, "output": [answer]}
        for row_id, prompt, answer in zip(ids, prompts, answers, strict=True)
    }
    homework = presets.MODELS["llama-2-7b"]
    right = model in ("llama-2-7b", homework.hub_id)
    note = (
        f"Made with the homework's base model, {homework.hub_id}."
        if right
        else f"Made with {model}, not with the homework's base model {homework.hub_id}: not for handing in."
    )
    workspace.write_json(path, content)
    workspace.write_json(
        path.with_name(f"{path.stem}_about.json"), {"base_model": model, "note": note}
    )
    print(f"{len(answers)} answers in {path.name}. {note}")
    return path


def set_aside(folder: Path) -> None:
    """Rename what a run's folder holds of answers, before its adapter and its record become others; and say so.

    Their names get the step of the adapter that answered.
    """
    found = [folder / name for name in OF_ANSWERS if (folder / name).is_file()]
    record = {}
    with contextlib.suppress(CourseError):  # the record is damaged
        record = workspace.read_json(folder / "run.json") or {}
    best = record.get("best") or {}
    step = best.get("step") if best.get("taken") else record.get("step")
    for file in found:
        file.replace(file.with_name(f"{file.stem}-step{step}{file.suffix}"))
    if found:
        print(
            f"{', '.join(file.name for file in found)} in {folder.name} came from the adapter of step {step}, and that is in "
            "their names now. For the new one, run the cells that answer and write again."
        )


def write_training_config(path: str | Path, record: dict) -> Path:
    """Write the homework's ``training_config.json``, nine settings, from a run's ``run.json``."""
    choice = choice_from(record["choice"], Path("run.json"), "Train again in notebook 05.")
    at_once = record["per_device_train_batch_size"]
    choice = replace(choice, per_device_train_batch_size=at_once)  # refuses what does not divide
    content = {
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": choice.rows_per_update // at_once,
        "warmup_steps": record["warmup_steps"],
        "num_train_epochs": choice.num_train_epochs,
        "learning_rate": record["learning_rate"],
        # Without a GPU Unsloth takes another than was asked for.
        "optim": record.get("optim", presets.TRAINING["optim"]),
        "weight_decay": presets.TRAINING["weight_decay"],
        "lr_scheduler_type": presets.TRAINING["lr_scheduler_type"],
        "seed": presets.TRAINING["seed"],
    }
    return workspace.write_json(Path(path).absolute(), content)
