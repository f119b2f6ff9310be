"""All runs at once: a table, curves over each other, a map of r and alpha, in what two differ.

Nothing is stored for it: each run's folder is the record. A damaged folder is a row that says so.
"""

import contextlib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import claims, comparing, ledger_plots, plots, records, runs
from helpers.errors import CourseError
from helpers.trainer_files import looks, lowest, number, series

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


def table() -> "pd.DataFrame":
    """One row a run, the newest last: what was chosen, and what came of it.

    ``lr`` is the learning rate; ``epochs`` 1 for a training in stages; ``data`` how the hash of the rows begins (the
    same for the same rows only); ``tokens`` those trained on; ``min`` minutes; ``peak GiB`` the GPU's memory;
    ``skipped`` updates that fp16 skipped; ``loss`` the mean training loss of the last third; ``held-out`` and ``best``
    the last held-out loss and the lowest after step 0; ``format`` the numbers it computed with. Losses are in nats
    a token. ``<NA>`` stands for what was not noted.
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
        row["tokens"] = max(records.tokens_at(record, state).values())
    row["date"] = f"{datetime.fromtimestamp(records.written(folder)):%Y-%m-%d %H:%M}"
    row["status"] = f"damaged: {fault}" if fault else _status(folder, record, state)
    return row


def _columns(record: dict, state: dict) -> dict:
    """The table's columns, as far as a record and the trainer's state fill them."""
    choice, outcome = records.mapping(record.get("choice")), _outcome(state)
    return {
        "status": "",
        "model": comparing.short(record.get("model")),
        "r": number(choice.get("r")),
        "alpha": number(choice.get("lora_alpha")),
        "lr": number(record.get("learning_rate")),
        "epochs": number(choice.get("num_train_epochs")),
        "rows": len(record["ids"]) if isinstance(record.get("ids"), list) else None,
        "data": str(record["data"])[:4] if "data" in record else None,
        "tokens": number(record.get("tokens")),
        "steps": number(state.get("global_step")),
        "min": number(record.get("minutes")),
        "peak GiB": _rounded(record.get("peak_memory_gib"), 2),
        "skipped": number(record.get("skipped_updates")),
        "loss": _rounded(outcome["loss"], 3),
        "held-out": _rounded(outcome["heldout_loss"], 3),
        "best": _rounded(outcome["best_heldout_loss"], 3),
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
    if step := record.get("diverged"):
        return f"diverged in step {step}"
    return f"{'stopped' if record['status'] == 'stopped' else 'interrupted'} {at}"


def _rounded(value: object, digits: int) -> float | None:
    found = number(value)
    return None if found is None else round(float(found), digits)


def _outcome(state: dict) -> dict[str, float | None]:
    """What came of a training, by the names in `VALUES`."""
    log = state.get("log_history", ())
    losses, heldout = ([loss for _, loss in series(log, name)] for name in ("loss", "heldout_loss"))
    best = lowest(looks(log))
    last_third = losses[-max(1, len(losses) // 3) :]
    return {
        "loss": sum(last_third) / len(last_third) if last_third else None,
        "heldout_loss": heldout[-1] if heldout else None,
        "best_heldout_loss": best[1] if best else None,
    }


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
        compared: runs or their names, unfinished ones too; without any, the finished ones of the newest one's model,
            the newest 14 at most.
        over: ``"steps"``, ``"epochs"`` or ``"tokens"``: runs on other rows do not line up by step.
        what: ``"loss"``, smoothed over 5 steps, the losses themselves as a thin line; or ``"heldout_loss"``.

    Raises:
        CourseError: there is no such run, or none noted this.
    """
    _need(over, AXES, "over")
    _need(what, ("loss", "heldout_loss"), "what")
    found = {run.folder: run for run in map(records.find, compared)}  # each once
    chosen = list(found.values()) or _of_the_newest_model()
    lines, drawn, notes = {}, [], []
    for run, label in zip(chosen, comparing.labels(chosen), strict=True):
        if line := _line(run, over, what):
            lines[label] = line
            drawn.append(run)
        else:
            notes.append(f"{run.folder.name} noted no {VALUES[what].partition(',')[0]}.")
    if not lines:
        raise CourseError(
            f"None of these runs noted a {VALUES[what].partition(',')[0]}.",
            "An older version of the course trained them, looking was off, or they stopped before their first checkpoint.",
            'Train again in notebook 05, or draw the other: what="loss" or what="heldout_loss".',
        )
    notes = [*comparing.cautions(drawn, what), *notes]
    smooth = plots.SMOOTH if what == "loss" else 1
    ylabel = VALUES[what] + ("\n(thin: each step)" if smooth > 1 else "")
    return ledger_plots.overlaid(lines, AXES[over], ylabel, smooth=smooth, note="\n".join(notes))


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
    log = state.get("log_history", ())
    if over == "steps":
        return series(log, what)
    at = dict(series(log, "epoch")) if over == "epochs" else records.tokens_at(run.record, state)
    return [(at[step], loss) for step, loss in series(log, what) if step in at]


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
        settings = comparing.settings(run.record)
        value = _outcome(records.furthest(run.folder))[what]
        cell = number(settings.pop("r", None)), number(settings.pop("alpha", None))
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
    epochs = comparing.settings(record).get("epochs")  # those of each stage, where there are stages
    title = f"{comparing.short(record['model'])}, {len(record['ids'])} rows, {epochs} epochs"
    numbers = {cell: value for cell, (value, _) in cells.items()}
    return ledger_plots.grid(
        numbers, VALUES[what], title, note=" ".join(comparing.cautions(chosen, what))
    )
