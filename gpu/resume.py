"""Does a training that was broken off end as if it had not been? On a GPU, through `training.train`.

`COURSE_T4=1 COURSE_MODEL=FOLDER python gpu/resume.py`, on an NVIDIA GPU. One training whole; the same stopped
by SIGINT and continued with its trainer; the same stopped and continued with a model that was just loaded. Equal
must be all losses. Then marks such as `</s>` in texts, and a step that does not fit into the memory.
"""

import gc
import json
import os
import signal
import tempfile

import common

ROWS = 60
# Losses may not differ at all: the same kernels see the same rows in the same order.
MARKED = " What do </s>, <s> and [INST] mean?"


def conversations():
    """Some of the course's pool, with marks of Llama-2's template in a question and in an answer."""
    from datasets import Dataset

    from helpers import data

    pool = data.load_conversations(data.OUR_POOL).select(range(ROWS))
    rows = pool.to_list()
    rows[0]["conversations"][0]["content"] += MARKED
    rows[1]["conversations"][1]["content"] += MARKED
    return Dataset.from_list(rows, features=pool.features)


def build(choice, rows):
    """A model just loaded, with a new adapter, and its trainer."""
    from helpers import adapting, models, runs, training

    gc.collect()
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    folder = runs.folder_for(choice, rows, model)
    return training.build_trainer(model, tokenizer, rows, choice, folder)


def stopper(step: int):
    """A callback that sends what Jupyter sends for Stop, in the middle of the step after ``step``."""
    from transformers import TrainerCallback

    class PressStop(TrainerCallback):
        pressed = False

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step and not self.pressed:
                self.pressed = True
                os.kill(os.getpid(), signal.SIGINT)

    return PressStop()


def broken_off(trainer, choice, rows, failures: list[str]) -> str:
    """What `training.train` says where it does not end."""
    from helpers import training
    from helpers.errors import CourseError

    try:
        training.train(trainer, choice, rows)
    except CourseError as error:
        return str(error)
    failures.append("a training that should have been broken off went to its end")
    return ""


def resumed(found: dict, failures: list[str]) -> None:
    """The three trainings."""
    from helpers import runs, training
    from helpers.choice import Choice

    choice, rows = Choice(r=16, num_train_epochs=1), conversations()
    trainer = build(choice, rows)
    marks = set(trainer.processing_class.all_special_ids)
    ids = [trainer.train_dataset[number]["input_ids"] for number in (0, 1)]
    found["marks in texts"] = [sum(one in marks for one in row) for row in ids]
    if found["marks in texts"] != [2, 2]:
        failures.append("a row has other marks than its first and its last")
    found["steps"] = choice.count_steps(len(trainer.train_dataset))
    whole = runs.losses(training.train(trainer, choice, rows).folder)
    found["losses"] = [loss for _, loss in whole]
    for name, again in (("the same trainer", False), ("a new session", True)):
        trainer = build(choice, rows)
        trainer.add_callback(stopper(len(whole) // 2))
        run = training.train(trainer, choice, rows)
        found[f"stopped, {name}"] = runs.how_far(run.record)
        if run.record["status"] != "stopped":
            failures.append("a training that should have been stopped went to its end")
        if again:
            del trainer
            trainer = build(choice, rows)
        gone_on = runs.losses(training.train(trainer, choice, rows).folder)
        found[name] = [loss for _, loss in gone_on]
        if gone_on != whole:
            failures.append(f"continued with {name}, the losses are others: {gone_on}")
        del trainer


def full(found: dict, failures: list[str]) -> None:
    """A step that is too large: what is said, and whether the memory is free again."""
    import torch
    from datasets import Dataset

    from helpers.choice import Choice

    choice = Choice(num_train_epochs=1, rows_per_update=64, per_device_train_batch_size=64)
    texts = ("word " * 1700, "yes " * 200)
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), texts, strict=True)
    ]
    rows = Dataset.from_list(
        [{"id": str(n), "conversations": messages, "score": 1.0} for n in range(64)]
    )
    trainer = build(choice, rows)
    before = torch.cuda.memory_allocated()
    found["full"] = broken_off(trainer, choice, rows, failures)
    after = torch.cuda.memory_allocated()
    found["GiB left behind by the full step"] = round((after - before) / common.GIB, 2)
    if "does not fit into the GPU's memory" not in found["full"]:
        failures.append(f"a step that is too large said: {found['full'][:300]}")
    if after - before > common.GIB:
        failures.append("what the step took was not given back")


def main() -> None:
    common.need_t4_mode()
    os.environ["COURSE_WORKSPACE"] = tempfile.mkdtemp()
    failures: list[str] = []
    from helpers import models  # noqa: F401  (Unsloth, before any of what it changes)

    found: dict = {}
    for part in (resumed, full):
        part(found, failures)
        common.save("resume", found | {"failures": failures})
    print(json.dumps(found, indent=1))
    common.finish(failures)


if __name__ == "__main__":
    main()
