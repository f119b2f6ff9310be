"""Measure what watching and keeping cost a training: the seconds in it that are the panel's, the checkpoints', the looks'.

    python tools/training_costs.py                                  # the course's 100 conversations, 2 epochs
    python tools/training_costs.py --rounds 1 --rows 16 --epochs 1  # a first impression

With this machine's model (the small one without a GPU). Each part is timed inside one training, and divided by what is
left of it: two trainings, one with and one without, differ by more than a part takes, for no reason but the machine.
Nothing else should run beside it.
"""

import argparse
import contextlib
import functools
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]


def parts() -> dict[str, list[tuple[object, str]]]:
    """Of each part, the functions that it is made of, as owner and name."""
    from helpers import best_adapter, keeping, panel, progress, watching

    def heard(*listeners: type) -> list[tuple[object, str]]:
        """What the trainer calls of these callbacks."""
        return [(one, name) for one in listeners for name in vars(one) if name.startswith("on_")]

    beside = heard(progress.Clock, progress.Guard, progress.Stop, watching.Updates)
    return {
        "panel": heard(panel.Panel),
        "checkpoints and the rest": [(keeping, "_save"), *beside],
        "held-out looks": heard(watching.Looking, best_adapter.Best),
    }


def counted(function: Callable, spent: dict[str, float], part: str) -> Callable:
    """The same function; its seconds are added to those of a part."""

    @functools.wraps(function)
    def timed(*args, **kwargs):
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - began

    return timed


@contextlib.contextmanager
def counting() -> Iterator[dict[str, float]]:
    """Seconds of each part, for the time of a ``with`` block, in which pictures are drawn as in a notebook."""
    from helpers import panel

    spent = dict.fromkeys(parts(), 0.0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(panel, "in_notebook", lambda: True))
        for part, places in parts().items():
            for owner, name in places:
                own = counted(getattr(owner, name), spent, part)
                stack.enter_context(mock.patch.object(owner, name, own))
        yield spent


def costs(adapted, tokenizer, conversations, choice) -> dict[str, float]:
    """One training of an untrained adapter: the seconds of each part, and of the training itself."""
    from helpers import runs, training

    folder = runs.folder_for(choice, conversations, adapted)
    trainer = training.build_trainer(adapted, tokenizer, conversations, choice, folder)
    whole = {"": 0.0}
    trainer.train = counted(trainer.train, whole, "")
    with counting() as spent:
        training.train(trainer, choice, conversations)
    return spent | {"training": whole[""] - sum(spent.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=2)
    asked = parser.parse_args()
    from helpers import adapting, data, homework, models, selection
    from helpers.choice import Choice

    model, tokenizer = models.load()
    pool = data.load_conversations(data.OUR_POOL)
    key, choice = homework.advanced_key, Choice(num_train_epochs=asked.epochs)
    conversations = selection.select(pool, key, largest_first=True, limit=asked.rows)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COURSE_WORKSPACE"] = folder
        for _ in range(asked.rounds):
            with contextlib.redirect_stdout(io.StringIO()):
                model = adapting.add_adapter(model, choice)
                found.append(costs(model, tokenizer, conversations, choice))
            print({part: round(seconds, 2) for part, seconds in found[-1].items()}, flush=True)
    for part in parts():
        share = statistics.median(one[part] / one["training"] for one in found)
        print(f"{part:<26}{share:7.2%} of the training")


if __name__ == "__main__":
    main()
