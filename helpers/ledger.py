"""All runs at once: a table, curves over each other, what differs; train one again, delete one.

Nothing is stored for it: each run's folder is the record. A damaged folder is a row that says so.
"""

import contextlib
import importlib.metadata
import itertools
import json
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import claims, comparing, copies, ledger_plots, records, runs, selection, workspace
from helpers.errors import CourseError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

AXES = {
    "steps": "step (one update of the adapter)",
    "epochs": "epochs (passes over the rows)",
    "tokens": "tokens trained on",
}
VALUES = {
    "loss": "training loss, nats a token",
    "heldout_loss": "held-out loss, nats a token",
    "best_heldout_loss": "lowest held-out loss, nats a token",
}
# As many as colours and line styles tell apart.
MOST_CURVES = len(ledger_plots.STYLES)
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
SMOOTH = 5  # as in the picture that moves while a model trains
# Inside runs/, so that a run gets there in one step, from the same disk; nothing looks for runs in it.
ASIDE = ".deleting"


def table() -> "pd.DataFrame":
    """One row a run, the newest last: what was chosen, and what came of it.

    ``lr`` is the learning rate; ``data`` how the hash of the rows begins (the same for the same rows only); ``tokens``
    those trained on; ``min`` minutes; ``peak GiB`` the GPU's memory; ``skipped`` updates that fp16 skipped; ``loss`` the
    mean training loss of the last third; ``held-out`` and ``best`` the last and the lowest held-out loss while it
    trained; ``format`` the numbers it computed with. Losses are in nats a token. ``<NA>`` stands for what was not noted.
    """
    import numpy as np
    import pandas as pd

    rows = {folder.name: _row(folder) for folder in records.folders()}
    cells = [list(row.values()) for row in rows.values()]
    frame = pd.DataFrame(cells, index=list(rows), columns=list(_columns({}, {})), dtype=object)
    # It tries each number as a whole one, which an infinite loss is not.
    with np.errstate(invalid="ignore"):
        return frame.where(frame.notna(), pd.NA).convert_dtypes()


def _row(folder: Path) -> dict:
    """A run's row of the table."""
    fault, state, record = records.damage(folder), records.furthest(folder), {}
    with contextlib.suppress(CourseError):  # said as the damage
        record = runs.read(folder)
    row = _columns(record, state)
    if record.get("status") != "finished":  # its record may hold those of the whole training
        row["tokens"] = max(records.tokens_at(runs.Run(folder, record), state).values())
    row["date"] = f"{datetime.fromtimestamp(records.written(folder)):%Y-%m-%d %H:%M}"
    row["status"] = f"damaged: {fault}" if fault else _status(folder, record, state)
    return row


def _columns(record: dict, state: dict) -> dict:
    """The table's columns, as far as a record and the trainer's state fill them."""
    choice = records.mapping(record.get("choice"))
    heldout = [value for _, value, _ in records.points(state, "heldout_loss")]
    return {
        "status": "",
        "model": comparing.short(record.get("model")),
        "r": records.number(choice.get("r")),
        "alpha": records.number(choice.get("lora_alpha")),
        "lr": records.number(record.get("learning_rate")),
        "epochs": records.number(choice.get("num_train_epochs")),
        "rows": len(record["ids"]) if isinstance(record.get("ids"), list) else None,
        "data": str(record["data"])[:4] if "data" in record else None,
        "tokens": records.number(record.get("tokens")),
        "steps": records.number(state.get("global_step")),
        "min": records.number(record.get("minutes")),
        "peak GiB": _rounded(record.get("peak_memory_gib"), 2),
        "skipped": records.number(record.get("skipped_updates")),
        "loss": _rounded(records.last_third(state), 3),
        "held-out": _rounded(heldout[-1] if heldout else None, 3),
        "best": _rounded(min(heldout, default=None), 3),
        "format": SHORT.get(str(record.get("number_format"))),
        "date": "",
    }


def _status(folder: Path, record: dict, state: dict) -> str:
    at = f"at {state.get('global_step')} of {state.get('max_steps')}" if state else "at once"
    if record["status"] == "finished":
        found = f"ended early {at}" if record.get("ended_early") else "finished"
        best = records.mapping(record.get("best"))
        found += f", adapter of step {best.get('step')}" if best.get("taken") else ""
        return f"{found}, useless adapter" if record.get("fault") else found
    if claims.holder(folder) is not None:
        return "being trained"
    return f"{'stopped' if record['status'] == 'stopped' else 'interrupted'} {at}"


def _rounded(value: object, digits: int) -> float | None:
    number = records.number(value)
    return None if number is None else round(float(number), digits)


def differences(a: str | runs.Run, b: str | runs.Run) -> list[str]:
    """In what two runs differ, in words; empty where their records say the same.

    Args:
        a, b: names of runs, or runs.

    Raises:
        CourseError: there is no such run, or its folder is damaged.
    """
    pair = records.find(a), records.find(b)
    status = [{"status": _status(*run, records.furthest(run.folder))} for run in pair]
    return [*comparing.differences(*pair), *comparing.unlike(pair, status)]


def curves(*compared: str | runs.Run, over: str = "steps", what: str = "loss") -> "Figure":
    """The losses of several runs over each other; the names below say in what these runs differ.

    Args:
        compared: runs or their names, unfinished ones too; without any, all finished ones of the newest one's model.
        over: ``"steps"``, ``"epochs"`` or ``"tokens"``: runs on other rows do not line up by step.
        what: ``"loss"``, smoothed over 5 steps, the losses themselves as a thin line; or ``"heldout_loss"``.

    Raises:
        CourseError: there is no such run, or none noted this.
    """
    _need(over, AXES, "over")
    _need(what, ("loss", "heldout_loss"), "what")
    found = {run.folder: run for run in map(records.find, compared)}  # each once
    chosen = list(found.values()) or _of_the_newest_model()
    series, notes = {}, []
    for run, label in zip(chosen, comparing.labels(chosen), strict=True):
        if line := _line(run, over, what):
            series[label] = line
        else:
            notes.append(f"{run.folder.name} noted no {VALUES[what].partition(',')[0]}.")
    if not series:
        raise CourseError(
            f"None of these runs noted a {VALUES[what].partition(',')[0]}.",
            "An older version of the course trained them, looking was off, or they stopped before their first checkpoint.",
            'Train again in notebook 05, or draw the other: what="loss" or what="heldout_loss".',
        )
    notes = [*comparing.cautions(chosen, what), *notes]
    smooth = SMOOTH if what == "loss" else 1
    ylabel = VALUES[what] + ("\n(thin: each step)" if smooth > 1 else "")
    return ledger_plots.overlaid(series, AXES[over], ylabel, smooth=smooth, note="\n".join(notes))


def _need(value: object, allowed: Iterable[str], name: str) -> None:
    if value not in list(allowed):
        raise CourseError(
            f"{name} = {value!r:.40} is none of those known here.",
            f"There are: {', '.join(allowed)}.",
            "Write one of them, in quotes.",
        )


def _of_the_newest_model() -> list[runs.Run]:
    """All finished runs of the newest one's model, as many as can be told apart."""
    finished = records.finished()
    if not finished:
        raise CourseError(
            "There is no finished run in this workspace.",
            "Only trained runs have losses to draw.",
            "Train in notebook 05. An unfinished run can be drawn by its name.",
        )
    model = finished[-1].record["model"]
    return [run for run in finished if run.record["model"] == model][-MOST_CURVES:]


def _line(run: runs.Run, over: str, what: str) -> list[tuple[float, float]]:
    """``(x, loss)`` of one run."""
    state = records.furthest(run.folder)
    tokens = records.tokens_at(run, state) if over == "tokens" else {}
    found = []
    for step, value, epoch in records.points(state, what):
        x = {"steps": step, "epochs": epoch, "tokens": tokens.get(step)}[over]
        found += [(x, value)] if x is not None else []
    return found


def r_by_alpha(what: str = "heldout_loss") -> "Figure":
    """A map of r and alpha over finished runs that share everything else; of such groups, the largest.

    Where two runs have the same r and alpha, the newer one counts.

    Args:
        what: ``"heldout_loss"`` (the last), ``"best_heldout_loss"`` or ``"loss"`` (mean of the last third).

    Raises:
        CourseError: no two runs can be compared.
    """
    _need(what, VALUES, "what")
    groups: dict[str, dict[tuple, tuple[float, runs.Run]]] = {}
    for run in records.finished():
        settings, value = comparing.settings(run.record), _outcome(run, what)
        cell = records.number(settings.pop("r", None)), records.number(settings.pop("alpha", None))
        if value is not None and None not in cell:
            rest = json.dumps(
                [settings, run.record["data"], comparing.looking(run)], sort_keys=True
            )
            groups[rest] = groups.pop(rest, {}) | {cell: (value, run)}  # the newest group last
    cells = max(reversed(groups.values()), key=len, default={})
    if len(cells) < 2:
        raise CourseError(
            f"There are no two finished runs to compare by their {VALUES[what].partition(',')[0]}.",
            "They have to share model, rows, epochs and all else but r and alpha, and to have noted it.",
            "Train more: earlier.variant(run, conversations, r=4) as in notebook 07, or other settings in 03, then 05.",
        )
    chosen = [run for _, run in cells.values()]
    record = chosen[-1].record
    title = f"{comparing.short(record['model'])}, {len(record['ids'])} rows, {record['choice'].get('num_train_epochs')} epochs"
    numbers = {cell: value for cell, (value, _) in cells.items()}
    return ledger_plots.grid(
        numbers, VALUES[what], title, note=" ".join(comparing.cautions(chosen, what))
    )


def _outcome(run: runs.Run, what: str) -> float | None:
    """One number for a run."""
    state = records.furthest(run.folder)
    if what == "loss":
        return records.last_third(state)
    heldout = [value for _, value, _ in records.points(state, "heldout_loss")]
    if not heldout:
        return None
    return heldout[-1] if what == "heldout_loss" else min(heldout)


def repeat(name: str | runs.Run) -> runs.Run:
    """Train a finished run again from what its folder holds, into a new one; says what is not as it was.

    The student's own run stays the latest one. Where this was broken off, the same call goes on.

    Raises:
        CourseError: there is no such run, it is damaged or not finished, or its conversations are not those that it was
            trained on.
    """
    run = records.find(name)
    _need_repeatable(run)
    choice, rows = runs.choice_of(run), selection.of_run(run)
    print(f"Training {run.folder.name} again, on its {len(rows)} conversations.")
    then = records.mapping(run.record.get("versions"))
    for package, version in then.items():
        if (now := _version(package)) != version:
            print(f"{package} was {version} then, and is {now} now.")
    from helpers import earlier, keeping  # with Unsloth, which the rest here can do without

    again = earlier._load_and_train(choice, rows, run.record["model"], latest=False)
    if again.record["status"] != "finished":  # Stop was pressed, and it was said how to go on
        return again
    if records.mapping(run.record.get("best")).get("taken"):
        again = keeping.take_best(again)
    print(
        *comparing.differences(run, again._replace(record=again.record | {"versions": then})),
        sep="\n",
    )
    same = len({one.folder.joinpath(records.ADAPTER).read_bytes() for one in (run, again)}) == 1
    print(f"{again.folder.name} has {'the same' if same else 'another'} adapter, to the last bit.")
    return again


def _need_repeatable(run: runs.Run) -> None:
    """CourseError for a run that would be trained otherwise than before."""
    record, name = run.record, run.folder.name
    if record["status"] != "finished":
        raise CourseError(
            f"The run {name} is not finished.",
            "Trained again, it would go on where it is, instead of from the first step.",
            "Finish it in notebook 05 with the same choice and conversations, then run this cell again.",
        )
    if record.get("load_in_4bit") is False:
        raise CourseError(
            f"The run {name} was trained on a base model in 16 bits.",
            "This loads the base in 4 bits, as the course does, and the adapter would be another.",
            "Load the model with models.load(load_in_4bit=False), and run the cells of notebook 05 from there.",
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def delete(name: str | runs.Run, *, even_latest: bool = False) -> None:
    """Delete a run's folder, checkpoints and adapter with it, and say how much room that made.

    The folder is moved aside first: a machine that goes away in the middle leaves no half of a run.

    Args:
        name: the folder's name in ``runs/``, or the run.
        even_latest: also if notebooks 06 and 07 look at this run; then they look at the newest one left.

    Raises:
        CourseError: there is no such run; it is being trained; it is a link; or it is the latest one.
    """
    folder = records.folder_of(name)
    _need_deletable(folder, even_latest)
    mib = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    aside = workspace.make(folder.parent / ASIDE)
    # What an earlier one could not remove has another name.
    number = next(n for n in itertools.count() if not (aside / f"{folder.name}-{n}").exists())
    try:
        folder.rename(aside / f"{folder.name}-{number}")
        if _latest() == folder.name:
            workspace.path("latest_run.json").unlink()
        shutil.rmtree(aside)
        if (place := copies.place(folder)) != folder and place.exists():
            shutil.rmtree(place)
    except OSError as error:
        left = aside if not folder.exists() else folder
        raise CourseError(
            f"{folder.name} could not be deleted: {error.strerror or error}.",
            f"Its files are in {left}. They may not be changed, or another program holds them open.",
            "Close that program, or delete this folder by hand.",
        ) from error
    print(f"Deleted the run {folder.name}: {mib:.1f} MiB are free again.")
    if workspace.is_on_drive(folder):
        print("On Drive they are in the trash, and count until you empty it.")


def _need_deletable(folder: Path, even_latest: bool) -> None:
    if folder.is_symlink():
        raise CourseError(
            f"{folder.name} is a link to another folder.",
            "Deleting it would delete what lies elsewhere, or only the link.",
            "Remove the link by hand.",
        )
    if (holder := claims.holder(folder)) is not None:
        raise CourseError(
            f"The run {folder.name} is being trained now, by process {holder.get('pid')}.",
            "Its next checkpoint would have no place to go.",
            "Stop that training first (often another notebook), then run this cell again.",
        )
    if not even_latest and _latest() == folder.name:
        raise CourseError(
            f"{folder.name} is the latest run.",
            "Notebooks 06 and 07 look at it.",
            f"If you mean it: ledger.delete({folder.name!r}, even_latest=True).",
        )


def _latest() -> str | None:
    """The name of the run that notebooks 06 and 07 look at."""
    with contextlib.suppress(CourseError):  # damaged: then the newest one counts
        noted = records.mapping(workspace.read_json("latest_run.json")).get("name")
        if isinstance(noted, str):
            return noted
    with contextlib.suppress(CourseError):  # some record is damaged, and those notebooks say so
        run = runs.latest()
        return run.folder.name if run else None
    return None
