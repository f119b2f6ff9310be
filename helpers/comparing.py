"""In what runs differ: settings, rows, versions, skipped updates; in words, from their records alone."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers import records, runs, workspace
from helpers.errors import CourseError
from helpers.trainer_files import number

# Where a setting's name in `Choice` is not the word for it.
WORDS = {"lora_alpha": "alpha", "lora_dropout": "dropout", "num_train_epochs": "epochs"}
# What a record holds beside the choice: of this, what shapes a result, in words.
SHAPING = {
    "load_in_4bit": "base in 4 bits",
    "chat_template": "chat template (its hash)",
    "model_revision": "revision of the base model",
    "number_format": "number format",
    "seed": "seed",
}
BESIDE = {"per_device_train_batch_size": "rows at once", "machine": "machine"}


def differences(a: runs.Run, b: runs.Run) -> list[str]:
    """In what two runs' records differ, in words; what shapes the result comes first."""
    pair = a, b
    return [
        *unlike(pair, [settings(run.record) | _noted(run.record, BESIDE) for run in pair]),
        *_other_rows(*pair),
        *unlike(pair, [records.mapping(run.record.get("versions")) for run in pair]),
        *_skipped(pair),
    ]


def unasked(run: runs.Run, other: runs.Run, asked: Iterable[str]) -> list[str]:
    """In what a run differs from another, but for its rows and what was asked to differ; in words.

    Args:
        run, other: the two runs.
        asked: names of fields of `Choice`.
    """
    names = ["choice", "ids", "data", "stages", *({"learning_rate"} & set(asked))]
    same = {name: other.record.get(name) for name in names}
    pair = run._replace(record=run.record | same), other
    return [
        *unlike(pair, [settings(one.record) for one in pair]),
        *_other_rows(*pair),
        *unlike(pair, [records.mapping(one.record.get("versions")) for one in pair]),
        *_skipped(pair),
    ]


def settings(record: dict) -> dict[str, object]:
    """What shapes a run's result, but for its data, by words for it."""
    choice = {WORDS.get(name, name): value for name, value in record["choice"].items()}
    # None there means: follows from machine or model. The record holds what that was.
    for derived in ("per_device_train_batch_size", "learning_rate", "stages"):
        choice.pop(derived, None)
    if record.get("stages"):
        parts = [f"{stage['rows']} rows × {stage['epochs']:g}" for stage in record["stages"]]
        choice["epochs"] = ", then ".join(parts)
    used = {"model": record["model"], "learning rate": record.get("learning_rate")}
    return choice | used | _noted(record, SHAPING)


def _noted(record: dict, names: dict[str, str]) -> dict[str, object]:
    return {word: record.get(name) for name, word in names.items()}


def _in_words(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list):
        return " ".join(str(one).removesuffix("_proj") for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def unlike(pair: Sequence[runs.Run], held: Sequence[dict]) -> list[str]:
    """What is not the same in both of two dicts, in words."""
    (one, other), (ours, theirs) = (run.folder.name for run in pair), held
    both = {
        name: (_in_words(ours.get(name)), _in_words(theirs.get(name))) for name in ours | theirs
    }
    return [f"{name} is {x} in {one}, {y} in {other}" for name, (x, y) in both.items() if x != y]


def _other_rows(a: runs.Run, b: runs.Run) -> list[str]:
    found = []
    if a.record["data"] != b.record["data"]:
        ours, theirs = _kept_rows(a), _kept_rows(b)
        common = sum(name in theirs and theirs[name] == row for name, row in ours.items())
        found.append(
            f"the same {common} rows stand in another order"
            if common == len(ours) == len(theirs)
            else f"rows: {len(ours)} in {a.folder.name}, {len(theirs)} in {b.folder.name}, {common} in common"
        )
    if looking(a) != looking(b):
        found.append("their held-out losses cannot be compared: they are of other rows")
    return found


def _kept_rows(run: runs.Run) -> dict[str, object]:
    """Each row's messages by its id; where they are not kept (any more), ids alone."""
    rows = None
    with contextlib.suppress(CourseError):  # of damaged rows the ids are known
        rows = workspace.read_json(run.folder.absolute() / "conversations.json")
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return {str(row.get("id")): row.get("conversations") for row in rows}
    return {str(row_id): None for row_id in run.record["ids"]}


def looking(run: runs.Run) -> object:
    """The hash of the held-out rows that a run looked at while it trained."""
    return records.mapping(run.record.get("heldout")).get("sha")


def _skipped(compared: Iterable[runs.Run]) -> list[str]:
    """A sentence where runs did not skip equally many updates."""
    noted = {r.folder.name: number(r.record.get("skipped_updates")) for r in compared}
    counts = {name: count for name, count in noted.items() if count is not None}
    if len(set(counts.values())) < 2:
        return []
    each = ", ".join(f"{count:g} in {name}" for name, count in counts.items())
    return [f"updates skipped: {each}; after equal steps these runs had other numbers of updates"]


def labels(chosen: Sequence[runs.Run]) -> list[str]:
    """For each run, how it differs from the others; its folder's name where that does not tell it apart."""
    facts = []
    for run in chosen:
        rows = f"{len(run.record['ids'])} (data {run.record['data'][:4]})"
        facts.append(settings(run.record) | {"model": short(run.record["model"]), "rows": rows})
    names = dict.fromkeys(name for fact in facts for name in fact)
    differ = [name for name in names if len({str(fact.get(name)) for fact in facts}) > 1]
    found = [", ".join(f"{n} = {_in_words(fact.get(n))}" for n in differ) for fact in facts]
    return [
        label if label and found.count(label) == 1 else f"{run.folder.name} {label}".strip()
        for run, label in zip(chosen, found, strict=True)
    ]


def cautions(chosen: Sequence[runs.Run], what: str) -> list[str]:
    """What makes a comparison of these runs less than fair, a sentence each."""
    found = [f"U{one[1:]}." for one in _skipped(chosen)]
    if len({run.record["model"] for run in chosen}) > 1:
        found.append("Each model counts tokens of its own: the losses do not compare.")
    if what != "loss" and len({looking(run) for run in chosen}) > 1:
        found.append("The held-out rows are not the same: the held-out losses do not compare.")
    return found


def short(model: object) -> str | None:
    """A model without its owner on the hub, or the folders above it."""
    return Path(model).name if isinstance(model, str) else None
