"""What Trainer and PEFT write into a run's folder: the adapter, and the trainer's log.

The log is a list of entries such as ``{"step": 3, "epoch": 0.25, "loss": 2.1}``. While a model trains it is
``state.log_history``; in a folder it stands in `STATE`.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

# As peft (SAFETENSORS_WEIGHTS_NAME) and transformers (TRAINER_STATE_NAME) name them; both take long to import.
ADAPTER, STATE = "adapter_model.safetensors", "trainer_state.json"


def state_in(file: Path) -> dict:
    """What the trainer noted, from a `STATE`; empty where that is damaged or not there."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        step, log = number(state["global_step"]), state["log_history"]
        return state if step is not None and isinstance(log, list) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def series(log: Iterable[dict], name: str) -> list[tuple[int, float]]:
    """``(step, value)`` of each entry of a trainer's log that holds a number of this name; others are left out."""
    found = []
    for entry in log:
        if isinstance(entry, dict):
            step, value = number(entry.get("step")), number(entry.get(name))
            if step is not None and value is not None:
                found.append((step, float(value)))
    return found


def looks(history: list[dict], *, usual: bool = False) -> list[tuple[int, float]]:
    """``(step, held-out loss)`` of each look in a trainer's notes, but that before the first step.

    Args:
        history: the notes.
        usual: without those that only Stop added.
    """
    entries = [e for e in history if not (usual and e.get("added"))]
    return [look for look in series(entries, "heldout_loss") if look[0]]


def lowest(taken: list[tuple[int, float]]) -> tuple[int, float] | None:
    """The look with the lowest held-out loss, the first of equal ones; ``None`` where nobody looked, or saw NaN."""
    seen = [look for look in taken if math.isfinite(look[1])]
    return min(seen, key=lambda look: look[1], default=None)


def number(value: object) -> float | None:
    """A number from a file, or ``None`` for anything else. NaN stays: a diverged run has it."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return value if whole or isinstance(value, float) else None
