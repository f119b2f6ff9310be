"""Measure what watching and keeping cost a training: alone, with panel and checkpoints, and with held-out points too.

    python tools/training_costs.py --rounds 3                       # the course's 100 conversations, 2 epochs
    python tools/training_costs.py --rounds 1 --rows 16 --epochs 1  # a first impression

With this machine's model (the small one without a GPU). The three take turns, so that a machine that gets slower or
faster meets all of them alike; the seconds are those inside ``trainer.train``. Nothing else should run beside it.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

WAYS = ("nothing", "panel and checkpoints", "held-out points too")


def seconds(way: str, adapted, tokenizer, conversations, choice) -> float:
    """How long one training of an untrained adapter takes, with its pictures drawn as in a notebook."""
    from helpers import panel, runs, training, watching

    folder = runs.folder_for(choice, conversations, adapted)
    trainer = training.build_trainer(adapted, tokenizer, conversations, choice, folder)
    train, taken = trainer.train, []

    def timed(**arguments):
        began = time.perf_counter()
        train(**arguments)
        taken.append(time.perf_counter() - began)

    if way == "nothing":
        trainer.remove_callback(panel.Panel)
        trainer.args.save_strategy = "no"
        timed()
        return taken[0]
    trainer.train = timed
    panel.in_notebook = lambda: True
    look = watching.Looking.look
    if way == "panel and checkpoints":
        watching.Looking.look = lambda *_, **__: None
    try:
        training.train(trainer, choice, conversations)
    finally:
        watching.Looking.look = look
    return taken[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=2)
    asked = parser.parse_args()
    from helpers import adapting, data, homework, models, selection
    from helpers.choice import Choice

    model, tokenizer = models.load()
    conversations = selection.select(
        data.load_conversations(data.OUR_POOL),
        homework.advanced_key,
        largest_first=True,
        limit=asked.rows,
    )
    choice = Choice(num_train_epochs=asked.epochs)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COURSE_WORKSPACE"] = folder
        with contextlib.redirect_stdout(io.StringIO()):  # the first training of a process is slower
            model = adapting.add_adapter(model, choice)
            seconds(WAYS[0], model, tokenizer, conversations.select(range(8)), choice)
        for number in range(asked.rounds):
            for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                with contextlib.redirect_stdout(io.StringIO()):
                    model = adapting.add_adapter(model, choice)
                    taken[way].append(seconds(way, model, tokenizer, conversations, choice))
                print(f"round {number + 1}: {way:<24}{taken[way][-1]:8.1f} s", flush=True)
    alone = statistics.median(taken[WAYS[0]])
    for way in WAYS:
        middle = statistics.median(taken[way])
        print(f"{way:<24}{middle:8.1f} s  {middle / alone - 1:+.1%}")


if __name__ == "__main__":
    main()
