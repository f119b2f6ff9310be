"""A training in stages: its order, its borders, its rules, and that it is one run like every other."""

import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st
from rows import conversation, dataset, refusal
from transformers import TrainerCallback
from trl import SFTTrainer

from helpers import adapting, data, earlier, models, runs, selection, stages, training
from helpers.choice import Choice, choice_from
from helpers.stages import Stage

CHOICE = replace(tiny_run.CHOICE, num_train_epochs=7)  # not used
# 8 conversations twice, then 16 once: 32 rows, 4 an update.
STEPS, BORDER = 8, 4


def numbered(*numbers: int):
    return dataset(*(conversation(f"row_{n}", f"What is {n}?", f"It is {n}.") for n in numbers))


def two_stages() -> list[Stage]:
    rows = tiny_run.conversations(24)
    return [Stage(rows.select(range(8)), 2), Stage(rows.select(range(8, 24)), 1)]


def trained_in(listed: list[Stage], choice: Choice = CHOICE, **keywords) -> runs.Run:
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    return stages.train(model, tokenizer, listed, choice, **keywords)


# --------------------------------------------------------------------------------------------- the plan
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 20), min_size=1, max_size=12, unique=True), st.integers(1, 4)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_each_stage_passes_over_its_conversations_as_often_as_it_says(listed):
    choice, rows = stages.plan([Stage(numbered(*n), epochs) for n, epochs in listed], Choice())
    ids = rows["id"]
    assert len(set(ids)) == len(ids)
    for (numbers, epochs), places in zip(listed, stages.order(choice), strict=True):
        trained = [ids[place] for place in places]
        for i in range(epochs):  # epoch by epoch, each conversation once
            epoch = trained[i * len(numbers) : (i + 1) * len(numbers)]
            assert sorted(epoch) == sorted(f"row_{n}" for n in numbers)
        assert len(trained) == epochs * len(numbers)


def test_the_order_is_shuffled_and_always_the_same():
    listed = [Stage(numbered(*range(20)), 2)]
    choice = stages.plan(listed, Choice()).choice
    ((*places,),) = stages.order(choice)
    assert places[:20] != places[20:] != list(range(20))
    assert stages.plan(listed, Choice()).choice == choice
    assert stages.order(choice) == [places]


@pytest.mark.parametrize(("epochs", "count"), [(0.5, 5), (0.01, 1), (1.25, 12), (2.5, 25)])
def test_a_part_of_an_epoch_is_a_part_of_the_conversations(epochs, count):
    (places,) = stages.order(stages.plan([Stage(numbered(*range(10)), epochs)], Choice()).choice)
    assert len(places) == count
    assert max(Counter(places).values()) - min(Counter(places).values()) <= 1


def test_a_conversation_in_two_stages_counts_once():
    first, second = numbered(*range(60)), numbered(*range(30, 100))
    choice, rows = stages.plan([Stage(first, 1), Stage(second, 1)], Choice())
    assert len(rows) == 100
    assert [len(places) for places in stages.order(choice)] == [60, 70]
    assert [(s["rows"], s["epochs"]) for s in stages.summary(rows, choice)] == [(60, 1), (70, 1)]


def test_an_answer_more_is_a_row_more_and_its_conversation_stays_together():
    long = conversation("long", "One?", "1", "Two?", "2")
    choice, rows = stages.plan([Stage(dataset(long), 2), Stage(numbered(1), 1)], Choice())
    answers = [row["completion"][0]["content"] for row in stages.training_rows(rows, choice)]
    assert answers == ["1", "2", "1", "2", "It is 1."]


@pytest.mark.parametrize(("per_update", "border"), [(1, 7), (2, 4), (7, 1), (8, 1), (100, 1)])
def test_a_border_is_the_step_that_ends_the_stage(per_update, border):
    long = conversation("long", "One?", "1", "Two?", "2")
    first = Stage(dataset(long, *numbered(*range(5)).to_list()), 1)  # 7 rows
    choice = replace(Choice(), rows_per_update=per_update)
    choice, rows = stages.plan([first, Stage(numbered(1, 2), 2)], choice)
    assert stages.borders({"stages": stages.summary(rows, choice)}) == [border]


def test_one_stage_has_no_border_and_without_stages_nothing_changes():
    rows = numbered(1, 2, 3)
    choice, together = stages.plan([Stage(rows, 3)], Choice())
    assert stages.borders({"stages": stages.summary(together, choice)}) == []
    assert stages.borders({}) == stages.summary(rows, Choice()) == []
    plain = stages.training_rows(rows, Choice())
    assert plain.to_list() == data.to_prompt_completion(rows).to_list()


# -------------------------------------------------------------------------------------------- the rules
def test_more_than_100_conversations_over_all_stages_are_refused():
    listed = [Stage(numbered(*range(60)), 1), Stage(numbered(*range(60, 101)), 1)]
    message = refusal(stages.plan, listed, Choice())
    assert "101 conversations" in message and "over all stages together" in message


def test_one_id_for_two_conversations_is_refused():
    other = dataset(conversation("row_1", "Something else?", "Yes."))
    message = refusal(stages.plan, [Stage(numbered(1)), Stage(other)], Choice())
    assert "'row_1'" in message and "two different conversations" in message


def test_a_stage_that_would_never_end_is_refused():
    assert "epochs is too long" in refusal(Stage, numbered(*range(10)), 1e9)


@pytest.mark.parametrize("epochs", [0, -1, True, "2", float("nan"), None])
def test_epochs_that_are_no_number_above_0_are_refused(epochs):
    assert "epochs" in refusal(Stage, numbered(1), epochs)


@pytest.mark.parametrize("listed", [[], None, "two", [1], [(1, 2)], numbered(1)])
def test_what_is_no_list_of_stages_is_refused(listed):
    assert "stages.Stage(first_rows, 1)" in refusal(stages.plan, listed, Choice())


def test_rows_twice_in_a_stage_or_none_are_refused():
    assert "more than once" in refusal(Stage, dataset(*[numbered(1)[0]] * 2))
    assert "0 conversations" in refusal(Stage, numbered(1).select([]))
    assert "this is" in refusal(Stage, 1, numbered(1))


@pytest.mark.parametrize("here", [numbered(1), numbered(1, 2), numbered(1, 2, 3, 4)])
def test_stages_beside_other_conversations_are_refused(here):
    choice, _ = stages.plan([Stage(numbered(1, 2, 3))], Choice())
    message = refusal(stages.training_rows, here, choice)
    assert "stages.plan" in message and f"here are {len(here)}" in message


# ------------------------------------------------------------------------------------ kept in the choice
def test_stages_come_back_from_json():
    choice, _ = stages.plan(two_stages(), CHOICE)
    read = choice_from(json.loads(json.dumps(choice.to_dict())), Path("run.json"), "")
    assert read == choice and read.to_dict() == choice.to_dict()
    assert choice.num_train_epochs == 1
    assert replace(choice, stages=None, num_train_epochs=7) == CHOICE


@pytest.mark.parametrize("found", [[], [[[], 1]], [[[0.5], 1]], [[[0], 0]], [[0, 1]], 3, "ab"])
def test_a_choice_with_something_else_as_stages_is_refused(found):
    assert (
        "stages" in (text := refusal(Choice, stages=found))
        or "row number" in text
        or ("epochs" in text)
    )


# ------------------------------------------------------------------------------------------- one run
@pytest.fixture(scope="module")
def in_two_stages(tiny_llama, tmp_path_factory):
    """A finished training in two stages, in a workspace of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_MODEL", str(tiny_llama))
        patch.setenv("COURSE_WORKSPACE", str(tmp_path_factory.mktemp("stages")))
        return trained_in(two_stages())


@pytest.mark.usefixtures("use_tiny_llama")
def test_the_record_says_what_the_stages_were(in_two_stages):
    record = in_two_stages.record
    assert record["stages"] == [
        {"rows": 8, "epochs": 2, "last_step": BORDER},
        {"rows": 16, "epochs": 1, "last_step": STEPS},
    ]
    assert stages.borders(record) == [BORDER]
    assert (record["status"], len(record["ids"])) == ("finished", 24)
    assert [step for step, _ in runs.losses(in_two_stages.folder)] == list(range(1, STEPS + 1))
    choice, rows = runs.choice_of(in_two_stages), selection.of_run(in_two_stages)
    tokenizer = models.load(max_seq_length=choice.max_length)[1]
    assert record["tokens"] == sum(
        sum(data.row_lengths(rows.select(places), tokenizer)) for places in stages.order(choice)
    )


def plain_losses(rows, choice: Choice, folder: Path) -> list[float]:
    """The losses of TRL's own trainer on prompt/completion rows in the order in which they stand."""
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    at_once = training.per_device_train_batch_size(model, choice, choice.max_length)
    config = training.build_config(choice, len(rows), at_once, folder, model)
    config.train_sampling_strategy = "sequential"
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=config)
    training.prepare(trainer, rows).train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.usefixtures("use_tiny_llama")
def test_its_losses_are_those_of_a_plain_run_over_the_same_rows_one_after_the_other(
    in_two_stages, workspace, tmp_path
):
    first, second = two_stages()
    places, others = stages.order(stages.plan([first, second], CHOICE).choice)
    in_order = [first.rows[place] for place in places]
    in_order += [second.rows[place - 8] for place in others]
    pairs = data.to_prompt_completion(data.as_dataset(in_order))
    losses = plain_losses(pairs, replace(CHOICE, num_train_epochs=1), tmp_path)
    assert [loss for _, loss in runs.losses(in_two_stages.folder)] == losses


@pytest.mark.usefixtures("use_tiny_llama")
def test_one_stage_once_is_a_plain_epoch_in_that_order(workspace, tmp_path):
    rows = tiny_run.conversations(8)
    run = trained_in([Stage(rows)])
    (places,) = stages.order(runs.choice_of(run))
    pairs = data.to_prompt_completion(rows.select(places))
    losses = plain_losses(pairs, replace(CHOICE, num_train_epochs=1), tmp_path)
    assert [loss for _, loss in runs.losses(run.folder)] == losses


def killed_in_the_second_stage() -> None:
    """What a process runs that gets kill -9 after step 7."""
    prepare = training.prepare

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                os.kill(os.getpid(), signal.SIGKILL)

    def prepare_and_kill(*arguments):
        trainer = prepare(*arguments)
        trainer.add_callback(Kill())
        return trainer

    training.prepare = prepare_and_kill
    trained_in(two_stages())


def test_killed_in_its_second_stage_it_goes_on_to_the_same_adapter(
    in_two_stages, workspace, tiny_llama, monkeypatch, capsys
):
    monkeypatch.setenv("COURSE_MODEL", str(tiny_llama))
    process = forked.Process(killed_in_the_second_stage)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    run = trained_in(two_stages())
    assert "Going on from checkpoint-5." in capsys.readouterr().out
    tiny_run.assert_same_adapter(run, in_two_stages)
    assert runs.losses(run.folder) == runs.losses(in_two_stages.folder)


@pytest.mark.usefixtures("use_tiny_llama")
def test_other_stages_of_the_same_conversations_are_another_run(in_two_stages, monkeypatch):
    monkeypatch.setenv("COURSE_WORKSPACE", str(in_two_stages.folder.parents[1]))
    choice, rows = stages.plan(two_stages(), CHOICE)
    name = in_two_stages.record["model"]
    assert runs.find_all(choice, rows, name)[-1].folder == in_two_stages.folder
    first, second = two_stages()
    for other in ([second, first], [first, Stage(second.rows, 2)], [first, second, second]):
        choice, rows = stages.plan(other, CHOICE)
        assert not runs.find_all(choice, rows, name)
    assert not runs.find_all(replace(CHOICE, num_train_epochs=1), rows, name)


@pytest.mark.usefixtures("use_tiny_llama")
def test_a_variant_of_it_has_the_same_stages(in_two_stages, workspace):
    shutil.copytree(in_two_stages.folder.parents[1], workspace)
    run = runs.latest()
    other = earlier.variant(run, selection.of_run(run), r=2)
    assert other.record["stages"] == run.record["stages"]
    assert len(runs.losses(other.folder)) == STEPS


@pytest.mark.usefixtures("use_tiny_llama")
def test_a_trainer_for_the_same_rows_in_random_order_is_refused(workspace):
    choice, rows = stages.plan(two_stages(), CHOICE)
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    folder = runs.folder_for(choice, rows, model)
    trainer = training.build_trainer(model, tokenizer, rows, choice, folder)
    trainer.args.train_sampling_strategy = "random"
    message = refusal(training.train, trainer, choice, rows)
    assert "train_sampling_strategy = random instead of sequential" in message
    plain = replace(choice, stages=None)
    assert "its rows are not those" in refusal(training.train, trainer, plain, rows)
