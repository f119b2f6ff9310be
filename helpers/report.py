"""One line about a training on this machine, to be copied into the course's issue form: no name, path or text of yours."""

import datetime
import json
import time

from helpers import machine, memory, presets
from helpers.choice import Choice
from helpers.runs import Run, choice_of
from helpers.setup import environment

MARK = "lora-course-report"
PACKAGES = ("torch", "unsloth", "transformers", "trl", "peft", "bitsandbytes")


def line(run: Run, notebook: str) -> str:
    """What this machine is, what it trained, how long that took, and how much memory, as one line.

    ``minutes`` are of training; ``minutes_since_set_up`` of all since the set-up cell ran. Memory is the peak of what
    PyTorch reserved, in GiB, without the CUDA context; ``predicted_gib`` the planner's. None where nothing is known.

    Args:
        run: what was trained.
        notebook: the notebook's number, such as "05".
    """
    record, choice = run.record, choice_of(run)
    # Without a peak it was trained on the processor, whatever else is here.
    card = machine.take_one().card if record.get("peak_memory_gib") else None
    predicted = _predicted(record, choice)
    since = round((time.monotonic() - environment.STARTED) / 60, 1)
    content = {
        "notebook": notebook,
        "date": datetime.date.today().isoformat(),
        "gpu": card.name if card else "none",
        "gpu_memory": card and card.memory,
        "driver": card and card.driver,
        "versions": {name: environment.version(name) for name in PACKAGES},
        # The name of a model of one's own may be a path.
        "model": record["model"] if record["model"] in presets.MODELS else "other",
        "r": choice.r,
        "modules": len(choice.target_modules),
        "rows_at_once": record["per_device_train_batch_size"],
        "longest_row": record.get("longest_row"),
        "trained": record["trainable_parameters"],
        "tokens": record["tokens"],
        "minutes": record["minutes"],
        "tokens_per_second": round(record["tokens"] / max(60 * record["minutes"], 0.6)),
        # None where the training went on from an earlier session's.
        "minutes_since_set_up": since if since + 0.1 >= record["minutes"] else None,
        "peak_gib": record.get("peak_memory_gib"),
        "predicted_gib": predicted and round(predicted, 2),
    }
    return f"{MARK} {json.dumps(content, separators=(',', ':'))}"


def _predicted(record: dict, choice: Choice) -> float | None:
    """The planner's peak in GiB for what was trained; None for a model that it does not know."""
    if record["model"] not in presets.MODELS or not record.get("longest_row"):
        return None
    return memory.estimate(
        record["model"],
        r=choice.r,
        per_device_train_batch_size=record["per_device_train_batch_size"],
        max_length=record["longest_row"],
        target_modules=choice.target_modules,
    ).total
