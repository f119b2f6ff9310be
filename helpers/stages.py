"""A training in stages: some conversations first, others after. One run, with one loss curve.

The order in which a model meets its examples may matter (Bengio et al. 2009, "Curriculum Learning"). A stage is a set of
conversations and how often they are passed over. All stages make one list of training rows, which the trainer goes
through once, in this order, with one learning-rate schedule over all of it.

What the stages are stands in the choice (`Choice.stages`, by row numbers), the conversations beside it once each. So a
run in stages is found, resumed, repeated and varied as every other run is.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from helpers import data, presets, selection
from helpers.choice import Choice
from helpers.errors import CourseError, check_positive

if TYPE_CHECKING:
    from datasets import Dataset

    from helpers.runs import Run


# The small model takes some three minutes for 200 on two cores: more than a day for so many.
MOST = 100_000


@dataclass(frozen=True)
class Stage:
    """Conversations, and how often they are passed over: 0.5 is a random half of them, once.

    Raises:
        CourseError: none or more than 100 conversations, one of them twice, epochs that are no number above 0, or far too many.
    """

    rows: "Dataset"
    epochs: float = 1

    def __post_init__(self):
        selection.check_rows(self.rows)
        object.__setattr__(self, "epochs", check_positive("epochs", self.epochs))
        if len(self.rows) * self.epochs > MOST:
            raise CourseError(
                f"A stage of {len(self.rows)} conversations and {self.epochs:g} epochs is too long.",
                f"Beyond {MOST:,} conversations, each counted as often as it is passed over, no free machine comes to an end.",
                "Choose fewer epochs; 1 to 3 are common.",
            )


class Plan(NamedTuple):
    """Stages as the course's other functions take them: a choice, and all conversations, once each."""

    choice: Choice
    conversations: "Dataset"


def plan(stages: Sequence[Stage], choice: Choice) -> Plan:
    """Check stages, and put them into a choice; its epochs become 1, since each stage has its own.

    A conversation may stand in several stages, and counts once.

    Raises:
        CourseError: there is no stage, or something else than a `Stage`; there are more than 100 conversations in all;
            or one id stands for two conversations.
    """
    listed = isinstance(stages, Sequence) and not isinstance(stages, str) and len(stages)
    if not listed or not all(isinstance(stage, Stage) for stage in stages):
        raise CourseError(
            f"stages = {stages!r:.60} is no list of stages.",
            "A training in stages has one or more, and each names its conversations and its epochs.",
            "Write for instance [stages.Stage(first_rows, 1), stages.Stage(other_rows, 2)].",
        )
    together: dict[str, dict] = {}
    for row in (row for stage in stages for row in stage.rows):
        if together.setdefault(row["id"], row)["conversations"] != row["conversations"]:
            raise CourseError(
                f"The id {row['id']!r:.40} belongs to two different conversations in these stages.",
                "By its id a conversation is found again. The stages come from two files that number their rows alike, "
                "or a row was edited in between.",
                "Give the rows of one file new ids: rows.map(lambda row: {'id': 'second_' + row['id']}).",
            )
    conversations = data.as_dataset(together.values())
    selection.check_rows(conversations)
    number = {row_id: place for place, row_id in enumerate(together)}
    parts = [(tuple(number[i] for i in stage.rows["id"]), stage.epochs) for stage in stages]
    return Plan(replace(choice, num_train_epochs=1, stages=tuple(parts)), conversations)


def order(choice: Choice) -> list[list[int]]:
    """For each stage the numbers of its conversations as they are trained on.

    Each epoch is shuffled, with the course's seed; the last of a stage may be a part of one.
    """
    shuffle = random.Random(presets.SEED).shuffle
    found = []
    for rows, epochs in choice.stages or ():
        count, taken = max(1, round(len(rows) * epochs)), []
        while len(taken) < count:
            epoch = list(rows)
            shuffle(epoch)
            taken += epoch
        found.append(taken[:count])
    return found


def training_rows(conversations: "Dataset", choice: Choice) -> "Dataset":
    """What a trainer gets: prompt/completion rows, one for each answer; with stages, in their order and as often.

    Raises:
        CourseError: the choice's stages were made with other conversations.
    """
    if choice.stages is None:
        return data.to_prompt_completion(conversations)
    named = {number for rows, _ in choice.stages for number in rows}
    if named != set(range(len(conversations))):
        raise CourseError(
            f"The choice's stages are made of {len(named)} conversations with numbers up to {max(named)}, and here are "
            f"{len(conversations)}, with numbers from 0.",
            "Stages name rows of the conversations that they were made with, each row at least once.",
            "Make both with stages.plan. Without stages: dataclasses.replace(choice, stages=None).",
        )
    in_order = [number for stage in order(choice) for number in stage]
    return data.to_prompt_completion(conversations.select(in_order))


def summary(conversations: "Dataset", choice: Choice) -> list[dict]:
    """For a run's record: of each stage conversations, epochs and the last step; that may hold rows of the next too."""
    answers = [sum(m["role"] == "assistant" for m in row) for row in conversations["conversations"]]
    found, rows = [], 0
    for (stage, epochs), trained in zip(choice.stages or (), order(choice), strict=True):
        rows += sum(answers[number] for number in trained)
        last_step = math.ceil(rows / choice.rows_per_update)
        found.append({"rows": len(stage), "epochs": epochs, "last_step": last_step})
    return found


def borders(record: dict) -> list[int]:
    """After which steps of a run the next stage begins, from its record; empty for a run without stages."""
    return [stage["last_step"] for stage in record.get("stages", [])[:-1]]


def train(
    model, tokenizer, stages: Sequence[Stage], choice: Choice, *, latest: bool = True
) -> "Run":
    """Train a model's new adapter in stages, or go on where such a training was stopped.

    Args:
        model: what `adapting.add_adapter` returned for this choice, untrained.
        tokenizer: the model's.
        stages: which conversations, and how often each.
        choice: all else; its ``num_train_epochs`` is not used.
        latest: notebooks 06 and 07 look at this run.

    Raises:
        CourseError: as `plan` and `training.train`.
    """
    from helpers import runs, training  # import Unsloth, which planning can do without

    choice, conversations = plan(stages, choice)
    folder = runs.folder_for(choice, conversations, model, beside=not latest)
    trainer = training.build_trainer(model, tokenizer, conversations, choice, folder)
    return training.train(trainer, choice, conversations, latest=latest)
