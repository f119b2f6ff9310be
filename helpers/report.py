"""One line about a training on this machine, to be copied into the course's issue form: no name, path or text of yours."""

import datetime
import json
import time

from helpers import lora, machine, memory, presets
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
    card = machine.gpu()
    longest, predicted = record.get("longest_row"), None
    if longest and record["model"] in presets.MODELS:
        predicted = memory.estimate(
            record["model"],
            r=choice.r,
            per_device_train_batch_size=record["per_device_train_batch_size"],
            max_length=longest,
            target_modules=choice.target_modules,
        ).total
    content = {
        "notebook": notebook,
        "date": datetime.date.today().isoformat(),
        "gpu": card.get("GPU", "none"),
        "gpu_memory": card.get("GPU memory"),
        "driver": card.get("driver"),
        "versions": {name: environment.version(name) for name in PACKAGES},
        "model": record["model"],
        "r": choice.r,
        "modules": len(choice.target_modules),
        "rows_at_once": record["per_device_train_batch_size"],
        "longest_row": longest,
        "trained": lora.adapter_parameters(record["model"], choice.r, choice.target_modules)
        if record["model"] in presets.MODELS
        else record["trainable_parameters"],
        "tokens": record["tokens"],
        "minutes": record["minutes"],
        "minutes_since_set_up": round((time.monotonic() - environment.STARTED) / 60, 1),
        "peak_gib": record.get("peak_memory_gib"),
        "predicted_gib": predicted and round(predicted, 2),
    }
    return f"{MARK} {json.dumps(content, separators=(',', ':'))}"
